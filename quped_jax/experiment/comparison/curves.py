"""How the rows of a comparison develop in training, and which matter most."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished


class Curve(NamedTuple):
  """How a row's score develops in training.

  Scores are of the primary variant, in % if they are shown so.

  Attributes:
    rounds: numbers of the evaluated rounds, `[evaluations]`.
    scores: mean over seeds, `[evaluations]`.
    std: standard deviation over seeds, likewise; 0 with one seed.
    megabytes: sent by then, down and up, mean over all clients,
      `[evaluations]`.
  """

  rounds: np.ndarray
  scores: np.ndarray
  std: np.ndarray
  megabytes: np.ndarray


def curve(finished: Mapping[int, Finished]) -> Curve:
  """The curve of a row, from {seed: its finished run}."""
  runs = list(finished.values())
  summary = runs[0].summary
  rounds = np.array([record["round"] for record in runs[0].history])
  field = f"test/{summary['primary_variant']}"
  # As floats: what was not finite is None.
  scores = np.array(
    [[record[field] for record in run.history] for run in runs], float
  )
  scores *= scores_lib.of_summary(summary).scale
  std = np.std(scores, axis=0, ddof=1) if len(runs) > 1 else 0 * scores[0]
  # Clients that are absent from a round send nothing.
  per_round = summary["bytes_up"] + summary["bytes_down"]
  per_round *= summary["clients_per_round"] / summary["clients"]
  return Curve(rounds, np.mean(scores, axis=0), std, rounds * per_round / 1e6)


def best(curves: Mapping[Row, Curve], most: int) -> list[Row]:
  """The first row, and of the others those that end with the best scores.

  Args:
    curves: of all rows.
    most: how many rows at most.
  """
  first, *others = curves
  # What is not known is not among the best.
  others.sort(key=lambda row: -np.nan_to_num(_end(curves, row), nan=-np.inf))
  return [first, *others[: most - 1]]


def frugal(curves: Mapping[Row, Curve], most: int) -> list[Row]:
  """The first row, and those that no other beats with as few bytes.

  Args:
    curves: of all rows.
    most: how many rows at most; of too many, those with the best scores.
  """
  first = next(iter(curves))
  front, highest = [], -np.inf
  by_bytes = sorted(
    curves, key=lambda row: (curves[row].megabytes[-1], -_end(curves, row))
  )
  for row in by_bytes:
    if _end(curves, row) > highest:
      highest = _end(curves, row)
      front.append(row)
  others = [row for row in front if row != first]
  return [first, *others[max(0, len(others) - most + 1) :]]


def _end(curves: Mapping[Row, Curve], row: Row) -> float:
  return float(curves[row].scores[-1])
