"""What the clients' messages weigh, and what the server makes of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.data.federation import ClientData
from quped_jax.methods.api import Aggregate


def client_weight(weighting: str, data: ClientData) -> Any:
  """A client's weight in the mean: 1, or its number of training samples."""
  return 1.0 if weighting == "uniform" else data.train.count


def mean_message(aggregates: Mapping[str, Aggregate], like: Any) -> Any:
  """Weighted mean of the messages of all cohorts; zero if nobody sent one.

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
  """The new server where a message has weight, the old one otherwise."""
  heard = sum(a.weight for a in aggregates.values()) > 0
  return jax.tree.map(lambda a, b: jnp.where(heard, a, b), new, old)
