"""Evaluations as a CSV file."""

import csv
import os
import pathlib

from quped_jax import paths
from quped_jax.experiment.callbacks import tracking
from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunStart,
)
from quped_jax.experiment.metrics import table


class CSV(Callback):
  """Writes a row per evaluated round, for spreadsheets and data frames.

  The columns are the metrics of `metrics.jsonl`, "round" first, and
  "seconds_per_round", "bytes_up" and "bytes_down", see `Evaluation`. A run that
  goes on keeps the rows up to where it does.

  Args:
    path: the file, which is replaced; by default `metrics.csv` in the workdir.
  """

  def __init__(self, path: str | os.PathLike | None = None):
    self._given = path
    self._path = pathlib.Path()
    # Of a run that goes on, until there is a row that has all columns.
    self._kept: list[dict[str, str]] | None = None

  def on_begin(self, start: RunStart) -> None:
    """Keeps the rows of a run that goes on."""
    self._path = tracking.place("path", self._given, start, "metrics.csv")
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._kept = []
    if start.round and self._path.is_file():
      with self._path.open(newline="") as file:
        rows = list(csv.DictReader(file))
      self._kept = [x for x in rows if 0 < _round(x) <= start.round]
    paths.replace_text(self._path, table(self._kept) if self._kept else "")

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Appends a row."""
    row = dict(evaluation.metrics)
    for name in ("seconds_per_round", "bytes_up", "bytes_down"):
      row[name] = getattr(evaluation, name)
    if self._kept is not None:
      before = [{x: old.get(x, "") for x in row} for old in self._kept]
      paths.replace_text(self._path, table([*before, row]))
      self._kept = None
      return
    with self._path.open("a", newline="") as file:
      csv.DictWriter(file, list(row)).writerow(row)


def _round(row: dict[str, str]) -> int:
  """The round of a row that anyone may have written; 0 if it has none."""
  text = row.get("round") or ""
  return int(text) if text.isdecimal() else 0
