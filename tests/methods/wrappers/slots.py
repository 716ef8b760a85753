"""Messages in slots, and their averages by hand."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from quped_jax.methods import api
from tests import tiny

COHORT = tiny.COHORT
SLOTS = 10


def messages(slots: int, seed: int = 0) -> Any:
  """Models of two arrays and one statistic, in slots."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {"kernel": draw(slots, 3, 2), "bias": draw(slots, 2)}
  return api.GlobalModel(params, {"mean": draw(slots, 2)})


def absent(slots: int, count: int, seed: int = 0) -> np.ndarray:
  """A mask with this many clients present."""
  order = np.random.default_rng(seed + 100).permutation(slots)
  return np.isin(np.arange(slots), order[:count])


def by_hand(values: np.ndarray, trim: float | None) -> np.ndarray:
  """The median, or a trimmed mean, of the rows, a coordinate at a time."""
  flat = values.reshape(len(values), -1).astype(np.float64)
  result = []
  for column in flat.T:
    ordered = sorted(column)
    cut = (len(ordered) - 1) // 2
    if trim is not None:
      # In whole percent, since a share as a float may be slightly too small.
      cut = round(100 * trim) * len(ordered) // 100
    result.append(np.mean(ordered[cut : len(ordered) - cut]))
  return np.reshape(result, values.shape[1:])


def hear(parts, sent, slots: int) -> api.Aggregate:
  """What a server that collects receives from a cohort."""
  collected = api.Collected(
    jnp.where(sent, jnp.arange(slots), -1),
    parts,
    jnp.where(sent, 3.0, 0.0),
  )
  return api.Aggregate((), jnp.sum(collected.weights), collected)
