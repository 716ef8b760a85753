"""Statistics of finished runs: paired differences and their intervals."""

from collections.abc import Mapping, Sequence
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
  same_clients: bool = False,
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

  Where all seeds have the same clients, with the same samples, a client's
  differences are not independent from seed to seed: then clients are drawn
  once, for all seeds.

  Args:
    own: {seed: score `[clients]`}, NaN where a client has none.
    other: the other method's, for the same seeds and clients.
    same_clients: whether the clients of all seeds are the same.
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
    differences.append(own[seed] - other[seed])
  if same_clients:
    # A client's samples, and so whether it has a score, are those of all seeds.
    known = ~np.isnan(differences).any(axis=0)
    differences = [each[known] for each in differences]
  else:
    differences = [each[~np.isnan(each)] for each in differences]
  mean = float(np.mean([each.mean() for each in differences]))
  if len(differences) == 1:
    return Difference(mean, None, None)
  draw = _same_clients if same_clients else _own_clients
  means = draw(differences, samples, np.random.default_rng(0))
  tail = (1 - level) / 2
  low, high = np.quantile(means, (tail, 1 - tail))
  return Difference(mean, float(low), float(high))


def _own_clients(
  differences: Sequence[np.ndarray], samples: int, rng: np.random.Generator
) -> np.ndarray:
  """Means of bootstrap samples, where each seed has clients of its own."""
  count = len(differences)
  drawn = rng.integers(count, size=(samples, count))
  means = np.zeros((samples, count))
  for seed, each in enumerate(differences):
    times = int(np.sum(drawn == seed))
    clients = rng.integers(each.size, size=(times, each.size))
    means[drawn == seed] = each[clients].mean(axis=1)
  return means.mean(axis=1)


def _same_clients(
  differences: Sequence[np.ndarray], samples: int, rng: np.random.Generator
) -> np.ndarray:
  """The same, where all seeds have the same clients."""
  values = np.array(differences)  # [seeds, clients]
  seeds, clients = values.shape
  drawn = rng.integers(seeds, size=(samples, seeds))
  chosen = rng.integers(clients, size=(samples, clients))
  # How often each seed and each client was drawn: no table of all pairs.
  by_seed = np.array([np.bincount(x, minlength=seeds) for x in drawn])
  by_client = np.array([np.bincount(x, minlength=clients) for x in chosen])
  return np.sum(by_seed @ values * by_client, axis=1) / (seeds * clients)


def chance(share: float, samples: int, z: float = 1.96) -> tuple[float, float]:
  """Between which shares chance alone puts a share that is counted.

  It is Wilson's interval, which is inside [0, 1].

  Args:
    share: from 0 to 1.
    samples: that are counted.
    z: how many standard deviations it goes to either side; 1.96 for 95 %.
  """
  centre = share + z**2 / (2 * samples)
  half = z * np.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
  scale = 1 + z**2 / samples
  return float((centre - half) / scale), float((centre + half) / scale)
