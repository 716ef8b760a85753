"""Whether rows differ, over seeds.

A seed gives one difference of mean accuracies, so that the clients of a seed,
who share a global model, do not count as independent.

In a table's config, `tests` has pairs of methods; each pair is compared at
every precision that both have, in every part, and the p values are corrected
for being several.

References:
  Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.paper.found import Found
from quped_jax.experiment.comparison.plan import Row


class Test(NamedTuple):
  """A comparison of two rows.

  Attributes:
    part: of the table; "" if it has no other.
    own: a row.
    other: the row that it is compared with.
    differences: own less other, one for each seed.
    p: of the paired t test, two-sided; None for less than two seeds.
  """

  part: str
  own: Row
  other: Row
  differences: tuple[float, ...]
  p: float | None


def tests(parts: Sequence[Found]) -> list[Test]:
  """All comparisons that a table's config asks for, of rows that were run."""
  return [
    _test(found, own, own._replace(method=second))
    for found in parts
    for first, second in found.part.config.get("tests", ())
    for own in found.records
    if own.method == first and own._replace(method=second) in found.records
  ]


def _test(found: Found, own: Row, other: Row) -> Test:
  apart = found.apart(own, other)
  p = paired_p(apart) if len(apart) > 1 else None
  return Test(found.part.name, own, other, tuple(apart.tolist()), p)


def paired_p(differences: np.ndarray) -> float:
  """The two-sided p value of a t test that a mean difference is not zero.

  Args:
    differences: `[seeds]`, two or more.
  """
  count = len(differences)
  mean, spread = np.mean(differences), np.std(differences, ddof=1)
  if spread == 0:
    return float(mean == 0)
  t = abs(mean) * np.sqrt(count) / spread
  return float(2 * stats.t.sf(t, count - 1))


def holm(p_values: Sequence[float]) -> list[float]:
  """The p values, corrected for being several.

  Args:
    p_values: of all tests.

  Returns:
    For each the level at which Holm's procedure rejects it. If those below 0.05
    are called differences, the chance of one that is none is at most 5 %.
  """
  order = np.argsort(p_values)
  left = len(p_values) - np.arange(len(p_values))
  corrected = np.maximum.accumulate(np.asarray(p_values)[order] * left)
  result = np.empty(len(p_values))
  result[order] = np.minimum(corrected, 1.0)
  return result.tolist()
