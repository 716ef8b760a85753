"""A comparison's table: for the terminal, as CSV and as Markdown."""

import csv
import io

import numpy as np
import pytest
import rich.console

from quped_jax.experiment import blocks
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
  (shown,) = tables.cells([record], tables.columns("")[0])
  assert shown == ("70.0", False)


def test_one_seed_has_a_difference_but_no_interval(tmp_path):
  results = {
    row: {0: finished[0]} for row, finished in small.make_results().items()
  }
  records = tables.make_records(results, dict.fromkeys(results, 1000.0))
  (_, (shown, _)) = tables.cells(records, tables.columns("local 32")[1])
  assert shown == "+10.0"
  tables.write(records, tmp_path)
  with (tmp_path / "table.csv").open() as file:
    _, row = csv.DictReader(file)
  assert float(row["difference_mean"]) == pytest.approx(0.1)
  assert row["difference_low"] == row["difference_high"] == ""


def test_the_best_of_a_column_is_bold():
  lines = tables.markdown_table(make_records()).splitlines()
  titles, _, first, second = (
    [cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]
  )
  first = dict(zip(titles, first, strict=True))
  second = dict(zip(titles, second, strict=True))
  assert first["accuracy"] == "80.0 (14.1)"
  assert second["accuracy"] == "**85.0 (0.0)**"
  assert (first["minus local 32"], second["minus local 32"]) == (
    "",
    "+10.0 [+10.0, +10.0]",
  )
  assert (first["KB sent"], second["KB sent"]) == ("**0**", "2")
  assert (first["model KB"], second["model KB"]) == ("4", "**1**")
  # No row is best where all are equal.
  assert first["grads"] == second["grads"] == "4"


def test_the_terminal_shows_the_same_table():
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=120, force_terminal=True)
  blocks.print_table(console, tables.terminal_table(make_records()), keep=2)
  text = stream.getvalue()
  assert "\x1b[1m85.0 (0.0)\x1b[0m" in text
  assert "+10.0 [+10.0, +10.0]" in text


def test_csv_has_all_numbers_unrounded(tmp_path):
  records = make_records()
  tables.write(records, tmp_path)
  with (tmp_path / "table.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["method"] for row in rows] == ["local", "fedavg"]
  assert float(rows[0]["std"]) == records[0]["std"]
  assert rows[0]["difference_mean"] == ""
  assert (tmp_path / "table.md").read_text() == tables.markdown_table(records)
