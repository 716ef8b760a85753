"""A comparison's table: its numbers, and as they are shown."""

import numpy as np
import pytest

from quped_jax.experiment.comparison import tables
from quped_jax.experiment.comparison.plan import Row
from tests.experiment.comparison import small


def make_records():
  results = small.make_results()
  sizes = dict(zip(results, (4000.0, 1000.0), strict=True))
  return tables.make_records(results, sizes)


def test_a_row_is_of_the_primary_variant_over_seeds():
  first, second = make_records()
  assert (first["method"], first["bits"]) == ("local", "32")
  assert first["accuracy"] == pytest.approx(0.8)
  assert first["std"] == pytest.approx(np.sqrt(2) * 0.1)
  assert first["worst"] == pytest.approx(
    np.mean([small.clients(0).min(), small.clients(1).min()])
  )
  assert first["difference_mean"] is None
  assert second["variant"] == "global"
  assert second["difference_mean"] == pytest.approx(0.1)
  assert second["difference_low"] == pytest.approx(0.1)
  assert second["bytes"] == 2000
  assert second["model_bytes"] == 1000
  # The held-out clients have no global variant.
  assert second["held_out_clients"] == 0.25


def test_one_seed_has_no_standard_deviation():
  record = tables.row_record(
    Row("local", (32,)), {0: small.finished(0, 0.7)}, 1.0
  )
  assert record["std"] is None
  (cell,) = tables.cells([record], tables.columns("")[0])
  assert cell == ("70.0", False)


def test_one_seed_has_a_difference_but_no_interval():
  results = {
    row: {0: finished[0]} for row, finished in small.make_results().items()
  }
  records = tables.make_records(results, dict.fromkeys(results, 1000.0))
  (_, (text, _)) = tables.cells(records, tables.columns("local 32")[1])
  assert text == "+10.0"
  assert records[1]["difference_mean"] == pytest.approx(0.1)
  assert records[1]["difference_low"] is None


def test_seeds_may_have_the_same_clients():
  results = small.make_results()
  rows = list(results)
  # Seeds agree; clients do not.
  for own in results[rows[1]].values():
    own.scores[:] += np.linspace(-0.5, 0.5, 40)
  sizes = dict.fromkeys(results, 1.0)
  widths = [
    record["difference_high"] - record["difference_low"]
    for same in (False, True)
    for record in tables.make_records(results, sizes, same_clients=same)[1:]
  ]
  assert widths[1] > 1.3 * widths[0]


def shown(records, *args):
  """The cells of each row, by the titles of their columns."""
  made = tables.sheet(records, *args)
  return [dict(zip(made.titles, row, strict=True)) for row in made.rows]


def test_the_best_of_a_column_is_marked():
  first, second = shown(make_records())
  assert first["accuracy"] == ("80.0 (14.1)", False)
  assert second["accuracy"] == ("85.0 (0.0)", True)
  assert first["minus local 32"] == ("", False)
  assert second["minus local 32"] == ("+10.0 [+10.0, +10.0]", False)
  assert (first["KB sent"], second["KB sent"]) == (("0", True), ("2", False))
  assert (first["model KB"], second["model KB"]) == (("4", False), ("1", True))
  # No row is best where all are equal.
  assert first["grads"] == second["grads"] == ("4", False)


def test_columns_are_chosen_by_the_fields_of_the_records():
  records = make_records()
  made = tables.sheet(records, ["bytes", "accuracy"])
  assert made.titles == ("method", "bits", "KB sent", "accuracy")
  with pytest.raises(ValueError, match="columns='nope': must be one of accura"):
    tables.sheet(records, ["nope"])


def test_methods_are_called_as_is_asked():
  made = tables.sheet(make_records(), None, str.upper)
  assert [row[0].text for row in made.rows] == ["LOCAL", "FEDAVG"]
  assert "minus LOCAL 32" in made.titles
