"""What is missing of a table is run, once."""

import pathlib
import signal
import time

import pytest

from experiments.paper import catalog, page, work
from experiments.paper.records import Key, Store
from quped_jax.experiment.comparison.plan import Row
from tests.experiments.paper import tables

RESULTS = pathlib.Path(__file__).parents[3] / "experiments/results/paper"


def carry_out(table, folder):
  said = []
  store = Store(folder / "results" / "cpu")
  work.carry_out(table, store, folder / "work", said.append)
  return store, said


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp("paper")
  store, said = carry_out(tables.table(), folder)
  return folder, store, said


@pytest.mark.slow
def test_all_rows_of_a_seed_come_before_the_next(done):
  _, store, said = done
  runs = [line for line in said if line.startswith("[") and " s" in line[-2:]]
  assert [line.split(": ")[0] for line in runs] == [
    f"[{number}/8] {method}, {bits}, seed {seed}"
    for number, (seed, method, bits) in enumerate(
      (
        (seed, method, bits)
        for seed in (0, 1)
        for method in ("quped", "local")
        for bits in ("32 bits", "2 bits")
      ),
      1,
    )
  ]
  assert list(store.runs) == [
    Key("", Row(method, (bits,)), seed)
    for seed in (0, 1)
    for method in ("quped", "local")
    for bits in (32, 2)
  ]


@pytest.mark.slow
def test_a_row_is_tuned_once_and_shares_what_was_chosen(done):
  _, store, said = done
  assert list(store.tuned) == ["local_2"]
  tuned = store.tuned["local_2"]
  assert tuned["chosen"] and len(tuned["tried"]) == 1
  # Of two gradients a step, for weights and levels each.
  assert tuned["gradients"] == 12
  assert sum("tuning local_2" in line for line in said) == 1


@pytest.mark.slow
def test_runs_of_former_settings_are_counted(done):
  _, store, _ = done
  table = tables.table()
  assert work.of_former_settings(table, store) == 0
  # Those of local training, of both precisions and seeds.
  changed = tables.table(overrides={"local": {"strength": 0.5}})
  assert work.of_former_settings(changed, store) == 4
  # A row that is no longer there.
  fewer = tables.table(bits="32", share={})
  assert work.of_former_settings(fewer, store) >= 4


def test_all_that_is_published_is_of_the_settings_that_tables_have():
  """A config that changes calls for its runs to be made anew."""
  kept = {}
  for name in catalog.names():
    for variant in catalog.VARIANTS:
      table = catalog.get(name, variant)
      for store in page.stores(RESULTS, table):
        kept[store.folder] = work.of_former_settings(table, store)
  assert kept and set(kept.values()) == {0}, kept


@pytest.mark.slow
def test_what_is_done_is_not_run_again_not_even_without_its_files(
  done, tmp_path
):
  folder, store, _ = done
  again = Store(store.folder)
  assert again.runs.keys() == store.runs.keys()
  said = []
  work.carry_out(tables.table(), again, tmp_path / "nothing", said.append)
  assert said == [] and not (tmp_path / "nothing").exists()
  for key, record in store.runs.items():
    read = again.runs[key]
    assert read.settings == record.settings
    assert read.results.scores == pytest.approx(record.results.scores, abs=1e-5)
  assert page.text(tables.table(), again) == page.text(tables.table(), store)


@pytest.mark.slow
def test_rows_of_other_settings_than_before_are_run_anew(done, tmp_path):
  _, store, _ = done
  changed = {"quped": {"quped": {"lambda_p": 0.1}}}
  copy = Store(tmp_path / "results" / "cpu")
  copy.runs, copy.tuned = dict(store.runs), dict(store.tuned)
  said = []
  work.carry_out(
    tables.table(overrides=changed, seeds=(0,)), copy, tmp_path, said.append
  )
  assert {line.split(" ")[1] for line in said} == {"quped,"}


@pytest.mark.slow
def test_what_another_table_of_the_device_has_is_not_run_again(done, tmp_path):
  folder, store, _ = done
  others = tables.table(
    # The same rows by other names.
    methods=("alone", "ours"),
    overrides={"alone": {"method": "local"}, "ours": {"method": "quped"}},
    seeds=(0,),
    share={"alone_32": "alone_2"},
    tune={
      **tables.CONFIG["tune"],
      "spaces": {"alone": tables.CONFIG["tune"]["spaces"]["local"]},
    },
  )
  there = Store(folder / "another" / store.folder.name)
  said = []
  work.carry_out(others, there, tmp_path / "nothing", said.append)
  assert not (tmp_path / "nothing").exists()
  assert sum(line.endswith("as it was run before") for line in said) == 4
  for method, name in (("local", "alone"), ("quped", "ours")):
    for bits in ((32,), (2,)):
      own = there.runs[Key("", Row(name, bits), 0)]
      same = store.runs[Key("", Row(method, bits), 0)]
      assert own.settings == same.settings
      assert own.results.scores == pytest.approx(same.results.scores, abs=1e-5)
  assert there.tuned["alone_2"] == store.tuned["local_2"]
  assert work.of_former_settings(others, there) == 0
  # On another device there is nothing to take.
  elsewhere = Store(folder / "another" / "gpu")
  (any_run, *_) = store.runs.values()
  assert elsewhere.run_like(any_run.settings) is None
  assert elsewhere.tuned_like(store.tuned["local_2"]["settings"]) is None


@pytest.mark.slow
def test_a_row_of_another_space_than_before_is_tuned_anew(tmp_path):
  section = tables.CONFIG["tune"]
  chosen = []
  for rates in ((0.01, 0.1), (0.2, 0.4)):
    spaces = {"local": {"learning_rate": rates}}
    table = tables.table(
      methods=("local",),
      bits="32",
      seeds=(0,),
      share={},
      tune={**section, "spaces": spaces},
    )
    # In the same folders, as when a config has changed.
    store, said = carry_out(table, tmp_path)
    assert any(line.startswith("tuning local_32") for line in said)
    chosen.append(store.tuned["local_32"]["chosen"]["learning_rate"])
    assert chosen[-1] in rates
  assert len(set(chosen)) == 2


def test_time_that_is_over_ends_what_is_done():
  with pytest.raises(work.OutOfTimeError), work.within(0.002):
    time.sleep(5)
  # In time, and Ctrl-C of a person's own.
  with work.within(1):
    pass
  with pytest.raises(KeyboardInterrupt), work.within(1):
    signal.raise_signal(signal.SIGINT)


def test_time_is_over_in_the_background_too():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with pytest.raises(work.OutOfTimeError), work.within(0.002):
      time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_cells_are_those_of_all_parts():
  table = tables.table()
  (part,) = table.parts
  both = table._replace(parts=(part._replace(name="a"), part))
  keys = [cell.key for cell in work.cells(both)]
  assert len(keys) == len(set(keys)) == 16
  assert {key.seed for key in keys[:8]} == {0}


@pytest.mark.slow
def test_a_warm_row_starts_from_the_weights_that_another_came_to(tmp_path):
  table = tables.table(
    methods=("full", "warm", "cold"),
    bits="32",
    seeds=(0,),
    share={},
    tune={**tables.CONFIG["tune"], "spaces": {}},
    base={**tables.CONFIG["base"], "clients": 1, "partition": "iid"},
    overrides={
      "full": {"method": "local", "rounds": 12, "save_models": "clients"},
      # A step that changes nothing.
      **{
        name: {"method": "local", "learning_rate": (0.0,), "rounds": 1}
        for name in ("warm", "cold")
      },
    },
    warm={"warm": "full_32"},
  )
  store, _ = carry_out(table, tmp_path)
  full, warm, cold = (record.results for record in store.runs.values())
  assert warm.scores == pytest.approx(full.scores)
  assert cold.scores != pytest.approx(full.scores)
