"""Statistics of finished runs: paired differences and their intervals."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
  """A mean difference in score and its interval.

  Attributes:
    mean: the difference.
    low: the lower end of the interval; None without one.
    high: the upper end, likewise.
  """

  mean: float
  low: float | None
  high: float | None


def paired_difference(
  own: Mapping[int, np.ndarray],
  other: Mapping[int, np.ndarray],
  *,
  samples: int = 2000,
  level: float = 0.95,
) -> Difference:
  """Bootstraps the difference in score of two methods on the same clients.

  The differences are paired: a client's score under one method minus its
  score under the other, with the same seed and so on the same data. They are
  resampled in two stages, with replacement in both: seeds are drawn, and then
  clients within each seed drawn. The clients of a seed share a partition and a
  training run, so that to resample clients alone would make the interval too
  narrow. From one seed there is therefore none; with two or three it is a rough
  one.

  Args:
    own: {seed: score `[clients]`}, NaN where a client has none.
    other: the other method's, for the same seeds and clients.
    samples: number of bootstrap samples.
    level: share of the samples that lie within the interval.

  Returns:
    The mean over seeds of the mean over clients of own - other, and its
    percentile interval if there are several seeds.

  Raises:
    ValueError: the seeds or the numbers of clients are not the same.
  """
  if set(own) != set(other):
    raise ValueError(
      f"seeds={sorted(own)}: must be {sorted(other)}, those of the other"
    )
  differences = []
  for seed in sorted(own):
    if own[seed].shape != other[seed].shape:
      raise ValueError(
        f"seed {seed}: must have {other[seed].size} clients, as many as the "
        f"other; got {own[seed].size}"
      )
    each = own[seed] - other[seed]
    differences.append(each[~np.isnan(each)])
  mean = float(np.mean([each.mean() for each in differences]))
  count = len(differences)
  if count == 1:
    return Difference(mean, None, None)
  rng = np.random.default_rng(0)
  drawn = rng.integers(count, size=(samples, count))
  means = np.zeros((samples, count))
  for seed, each in enumerate(differences):
    times = int(np.sum(drawn == seed))
    clients = rng.integers(each.size, size=(times, each.size))
    means[drawn == seed] = each[clients].mean(axis=1)
  tail = (1 - level) / 2
  low, high = np.quantile(means.mean(axis=1), (tail, 1 - tail))
  return Difference(mean, float(low), float(high))
