"""What the page says is what was kept."""

import pytest

from experiments.paper import catalog, page
from experiments.paper.records import Key, Store
from quped_jax.experiment.comparison.plan import Row
from tests.experiments.paper import tables


@pytest.fixture
def store(tmp_path):
  """Of "quped" and "local" in full precision both seeds, at 2 bits one."""
  found = Store(tmp_path / "cpu2")
  for seed in (0, 1):
    found.add(
      Key("", Row("quped", (32,)), seed), tables.record([0.9, 0.8, 0.7, 0.6])
    )
    found.add(
      Key("", Row("local", (32,)), seed), tables.record([0.8, 0.7, 0.7, 0.7])
    )
  found.add(Key("", Row("local", (2,)), 0), tables.record([0.5, 0.5, 0.5, 0.5]))
  return found


def test_rows_are_compared_with_the_first_of_their_precision(store):
  lines = page.text(tables.table(), store).splitlines()
  assert lines[0].startswith(
    "`python -m experiments.paper --table=test --variant=small` on cpu2: 5 of "
    "8 runs"
  )
  assert lines[0].endswith("5 of the runs are older than the table's settings.")
  assert "minus Ours" in lines[2]
  ours, local, alone = (line.split(" | ") for line in lines[4:7])
  assert ours[2:4] == ["**75.0**", ""]
  # Of one seed, which all have, there is no interval.
  assert local[2:4] == ["72.5", "-2.5"]
  # The first at 2 bits was not run.
  assert alone[1:4] == ["2", "50.0", ""]
  assert "Not run: Ours (2 bits)." in page.text(tables.table(), store)


def test_the_model_that_all_share_is_shown_where_there_is_one(tmp_path):
  found = Store(tmp_path / "cpu2")
  run = tables.record([0.5, 0.7], types=())
  run.results.summary["accuracy"]["global"] = {"mean": 0.125}
  found.add(Key("", Row("quped", (32,)), 0), run)
  found.add(
    Key("", Row("local", (32,)), 0), tables.record([0.5, 0.7], types=())
  )
  lines = page.text(tables.table(), found).splitlines()
  assert lines[2].endswith("| global model |")
  assert lines[4].endswith("| 12.5 |") and lines[5].endswith("|  |")


def test_a_mixture_says_what_each_client_type_gains(store):
  types = "2*mlp(8,8)@2, 2*mlp(8,8)@32"
  base = {
    **tables.CONFIG["base"],
    "client_types": types,
    "clients": 4,
    "hidden": (),
  }
  table = tables.table(base=base, bits="32", share={})
  text = page.text(table, store)
  assert "| Local training | 2,32 | " in text
  assert "| Local training | 32 | " not in text
  line = next(x for x in text.splitlines() if "mlp@2 (2 clients)" in x)
  assert "mlp@32 (2 clients)" in line
  assert "85.0 (+10.0" in text and "65.0 (-5.0" in text


def test_the_best_round_is_shown_beside_what_was_published(tmp_path):
  found = Store(tmp_path / "cpu2")
  row = Row("local", (32,))
  made = tables.record([0.9, 0.8], (0.985, 0.97))._replace(client_types=())
  found.add(Key("", row, 0), made)
  table = tables.table(
    methods=("local",),
    bits="32",
    seeds=(0,),
    share={},
    published={"local": 98.0},
  )
  assert "| Local training | 98.00 | 98.50 | +0.50 |" in page.text(table, found)


def test_the_page_says_what_was_chosen_from_what(store):
  store.add_tuned(
    "local_2",
    {
      "settings": "0",
      "space": {"learning_rate": (0.01, 0.1), "local.x": (1, 2)},
      "gradients": 1200,
      "seconds": 1.0,
      "chosen": {"learning_rate": 0.1, "local": {"x": 2}},
      "tried": [
        {"validation": 0.9, "rounds": 1},
        {"validation": 0.75, "rounds": 2},
        {"validation": None, "rounds": 2},
      ],
    },
  )
  assert (
    "| Local training | 2 | learning_rate **0.1** of 0.01, 0.1; x **2** of 1, "
    "2 | 75.0 | 3 | 1,200 |"
  ) in page.text(tables.table(), store)


def test_a_setting_may_be_one_for_each_client_type(store):
  store.add_tuned(
    "local_2",
    {
      "settings": "0",
      "space": {"learning_rate": ((0.01, 0.02), (0.1, 0.2))},
      "gradients": 1200,
      "seconds": 1.0,
      "chosen": {"learning_rate": (0.1, 0.2)},
      "tried": [{"validation": 0.5}],
    },
  )
  assert "learning_rate **0.1 / 0.2** of 0.01 / 0.02, 0.1 / 0.2" in page.text(
    tables.table(), store
  )


def test_only_what_is_between_the_marks_is_made_anew(tmp_path):
  name = catalog.names()[0]
  given = (
    f"before\n<!-- paper: {name} small cpu2 -->\nold\n<!-- end -->\nafter\n"
  )
  made = page.made(given, tmp_path)
  assert made.startswith(f"before\n<!-- paper: {name} small cpu2 -->\n")
  assert made.endswith("<!-- end -->\nafter\n")
  assert "old" not in made and f"--table={name}" in made
  assert page.made(made, tmp_path) == made
