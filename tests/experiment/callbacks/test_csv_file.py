"""Evaluations as a CSV file."""

import csv

import pytest

import quped_jax as qj
from tests.experiment.callbacks import told


def rows(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def play(path, rounds, given=None):
  told.play(qj.callbacks.CSV(given), path, rounds, told.end())


def test_there_is_a_row_per_evaluation(tmp_path):
  play(tmp_path, range(1, 3))
  first, second = rows(tmp_path / "metrics.csv")
  assert list(first) == [
    "round", "loss", "test/quantized", "test/global", "seconds_per_round",
    "bytes_up", "bytes_down",
  ]  # fmt: skip
  assert (first["round"], second["round"]) == ("1", "2")
  assert float(second["test/global"]) == 0.255
  assert float(second["bytes_down"]) == 4e6


def test_rows_can_be_read_while_the_run_goes_on(tmp_path):
  callback = qj.callbacks.CSV()
  callback.on_begin(told.start(tmp_path))
  callback.on_evaluation(told.evaluation(1))
  assert len(rows(tmp_path / "metrics.csv")) == 1


def test_a_run_that_goes_on_keeps_the_rows_up_to_there(tmp_path):
  play(tmp_path, range(1, 4))
  play(tmp_path, range(3, 5))
  found = rows(tmp_path / "metrics.csv")
  assert [row["round"] for row in found] == ["1", "2", "3", "4"]
  # One that begins anew does not.
  play(tmp_path, range(1, 2))
  assert len(rows(tmp_path / "metrics.csv")) == 1


def test_another_file_can_be_given(tmp_path):
  play(None, range(1, 2), tmp_path / "new" / "mine.csv")
  assert len(rows(tmp_path / "new" / "mine.csv")) == 1
  with pytest.raises(ValueError, match="path=None: must be given"):
    play(None, range(1, 2))


def test_a_file_of_something_else_is_no_reason_to_fail(tmp_path):
  path = tmp_path / "metrics.csv"
  for text in ("", "a,b\n1,2\n", "round\nx\n"):
    path.write_text(text)
    play(tmp_path, range(3, 4))
    assert [row["round"] for row in rows(path)] == ["3"]
