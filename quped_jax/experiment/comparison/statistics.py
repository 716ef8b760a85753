"""What is computed from finished runs: differences with their intervals."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
  """A mean difference in accuracy and its interval, as fractions."""

  mean: float
  low: float
  high: float


def paired_difference(
  own: Mapping[int, np.ndarray],
  other: Mapping[int, np.ndarray],
  *,
  samples: int = 2000,
  level: float = 0.95,
) -> Difference:
  """Bootstraps the difference of two methods on the same clients.

  A client's accuracy under one method is compared with its accuracy under the
  other, from the same seed and so on the same data. Then it is resampled in
  two stages: seeds with replacement, and within every seed drawn its clients
  with replacement. Clients of one seed share a partition and a training run,
  so that they alone would make the interval too narrow. With one seed the
  interval is over its clients only, and of two or three it is a rough one.

  Args:
    own: {seed: accuracy `[clients]`}, NaN where a client has none.
    other: the same seeds and clients.
    samples: how often it is resampled.
    level: share of the samples between the interval's ends.

  Returns:
    Mean over seeds of the mean over clients of own - other, and a percentile
    interval.

  Raises:
    ValueError: other seeds or another number of clients.
  """
  if set(own) != set(other):
    raise ValueError(
      f"seeds={sorted(own)}: must be {sorted(other)}, the other's"
    )
  differences = []
  for seed in sorted(own):
    if own[seed].shape != other[seed].shape:
      raise ValueError(
        f"seed {seed}: must have {other[seed].size} clients, as the other "
        f"has; got {own[seed].size}"
      )
    each = own[seed] - other[seed]
    differences.append(each[~np.isnan(each)])
  rng = np.random.default_rng(0)
  count = len(differences)
  drawn = rng.integers(count, size=(samples, count))
  means = np.zeros((samples, count))
  for seed, each in enumerate(differences):
    times = int(np.sum(drawn == seed))
    clients = rng.integers(each.size, size=(times, each.size))
    means[drawn == seed] = each[clients].mean(axis=1)
  tail = (1 - level) / 2
  low, high = np.quantile(means.mean(axis=1), (tail, 1 - tail))
  mean = np.mean([each.mean() for each in differences])
  return Difference(float(mean), float(low), float(high))
