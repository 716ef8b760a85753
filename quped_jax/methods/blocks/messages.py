"""Weights and means of the clients' messages."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from quped_jax.data.federation import ClientData
from quped_jax.methods.api import Aggregate


def client_weight(weighting: str, data: ClientData) -> Any:
  """A client's weight in the mean: 1, or its number of training samples."""
  return 1.0 if weighting == "uniform" else data.train.count


def mean_message(aggregates: Mapping[str, Aggregate], like: Any) -> Any:
  """Weighted mean of the messages of all cohorts; zero if there are none.

  Args:
    aggregates: the sums that the server received, by cohort.
    like: a tree with the structure of a message.

  Returns:
    A tree like `like`.
  """
  weight = sum(a.weight for a in aggregates.values())
  totals = [a.total for a in aggregates.values()]

  def mean(leaf, *parts):
    share = sum(parts) / jnp.where(weight > 0, weight, 1.0)
    return jnp.where(weight > 0, share, 0.0).astype(leaf.dtype)

  return jax.tree.map(mean, like, *totals)


def if_heard(aggregates: Mapping[str, Aggregate], new: Any, old: Any) -> Any:
  """The new server state if any message has weight, else the old one."""
  heard = sum(a.weight for a in aggregates.values()) > 0
  return jax.tree.map(lambda a, b: jnp.where(heard, a, b), new, old)


def clip(message: Any, bound: float) -> Any:
  """A message scaled so that its total L2 norm is at most a bound.

  A message that is not finite becomes zero.
  """
  norm = optax.tree.norm(message)
  scale = bound / jnp.maximum(norm, bound)
  finite = jnp.isfinite(norm)
  return jax.tree.map(
    lambda m: jnp.where(finite, scale * m, 0.0).astype(m.dtype), message
  )


def instead_of_mean(
  aggregates: Mapping[str, Aggregate], mean: Any, weight: Any
) -> dict[str, Aggregate]:
  """Aggregates of all cohorts whose `mean_message` is the given one.

  Args:
    aggregates: what was received.
    mean: a tree like a message.
    weight: 1, or 0 if nobody sent anything.
  """
  return {next(iter(aggregates)): Aggregate(mean, jnp.float32(weight))}
