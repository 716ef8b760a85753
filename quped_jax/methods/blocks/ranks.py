"""Averages of each coordinate by the ranks of its values.

References:
  Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning:
  Towards Optimal Statistical Rates, 2018.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.methods import by_precision


def check_trim(field: str, value: float) -> None:
  """Raises a ValueError unless so large a share can be left out twice."""
  if not 0 <= value < 0.5:
    raise ValueError(f"{field}={value}: must be at least 0 and less than 0.5")


def _mean_of_ranks(
  x: jax.Array, sent: jax.Array, low: Any, high: Any
) -> jax.Array:
  """The mean over the values with ranks low to high - 1 in each coordinate.

  NaNs have the highest ranks.
  """
  along = (-1, *(1,) * (x.ndim - 1))
  # Values of absent clients come last.
  ranked = jnp.sort(jnp.where(sent.reshape(along), x, jnp.nan), axis=0)
  rank = jnp.arange(x.shape[0]).reshape(along)
  kept = (rank >= low) & (rank < high)
  return jnp.sum(jnp.where(kept, ranked, 0.0), axis=0) / (high - low)


def _over_senders(
  average: Callable[[jax.Array, jax.Array], jax.Array],
  messages: Any,
  sent: jax.Array,
) -> Any:
  """Averages messages, and parts by precision over clients of the same bits.

  Args:
    average: `(values [slots, ...], sent) -> average [...]`.
    messages: tree of arrays `[slots, ...]`, perhaps with ByPrecision of single
      messages.
    sent: bool `[slots]`.
  """

  def apart(heard):
    counts = sent[:, None] & (heard.weights > 0)
    of_each = jax.vmap(average, in_axes=(1, 1))
    averages = jax.tree.map(lambda x: of_each(x, counts), heard.totals)
    known = jnp.any(counts, axis=0).astype(jnp.float32)
    return by_precision.ByPrecision(averages, known)

  return by_precision.map_parts(lambda x: average(x, sent), apart, messages)


def median(messages: Any, sent: jax.Array) -> Any:
  """The median of each coordinate, over the senders.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`. If all are False, the result is meaningless.

  Returns:
    Tree of arrays `[...]`; for an even number, the mean of the middle two.
  """

  def average(x, sent):
    count = jnp.sum(sent)
    return _mean_of_ranks(x, sent, (count - 1) // 2, count // 2 + 1)

  return _over_senders(average, messages, sent)


def trimmed_mean(messages: Any, sent: jax.Array, trim: float) -> Any:
  """The mean of each coordinate without its extremes, over the senders.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`. If all are False, the result is meaningless.
    trim: share of the values to leave out at either end, in [0, 0.5); their
      number is rounded down.

  Returns:
    Tree of arrays `[...]`.
  """
  counts = np.arange(sent.shape[0] + 1)
  # The small term makes 0.29 times 100 come to 29.
  cuts = np.floor(trim * counts + 1e-9).astype(np.int32)
  # It must not turn a share just below a half into a half.
  cuts = np.minimum(cuts, np.maximum(counts - 1, 0) // 2)

  # All who lie may have one precision: there, as many are left out.
  most = jnp.asarray(cuts)[jnp.sum(sent)]

  def average(x, sent):
    count = jnp.sum(sent)
    cut = jnp.minimum(most, jnp.maximum(count - 1, 0) // 2)
    return _mean_of_ranks(x, sent, cut, count - cut)

  return _over_senders(average, messages, sent)
