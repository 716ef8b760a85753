"""Averages that tolerate some false messages.

Each is a wrapper of a method whose server takes the mean of what clients send
(`FederatedMethod.averages`), of all cohorts together:

  median             of each coordinate, over those who sent
  trimmed mean       of each coordinate, without its smallest and largest values
  norm-clipped mean  of messages none of which is longer than a bound

Median and trimmed mean weigh all clients alike, since a client that lies about
its model may lie about its number of samples too; clients of weight 0 are left
out. They take the memory of all messages at once. The norm-clipped mean has the
method's own weights.

References:
  Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning:
  Towards Optimal Statistical Rates, 2018.
  Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?,
  2019.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.methods import api
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.messages import clip, instead_of_mean

AGGREGATIONS = ("mean", "median", "trimmed_mean", "norm_clipped_mean")


def check_aggregation(aggregation: str, client_state: str) -> None:
  """Raises a ValueError unless messages can be averaged so; see `Settings`."""
  if aggregation in ("median", "trimmed_mean") and client_state != "device":
    raise ValueError(
      f"client_state={client_state!r}: must be 'device' with aggregation="
      f"{aggregation!r}, which looks at single messages"
    )


def check_averages(
  method: api.FederatedMethod, name: str, field: str, allowed: str
) -> None:
  """Raises a ValueError unless a method's server takes the mean and no more.

  Args:
    method: to be wrapped.
    name: of the method.
    field: the setting and its value that need it.
    allowed: what the setting must be otherwise.
  """
  plain = method.receive is api.weighted_sum and method.collect is None
  if not (method.averages and plain):
    raise ValueError(
      f"{field}: must be {allowed} with method={name!r}, whose server does not "
      "just take the mean of models that clients send"
    )


def _mean_of_ranks(messages: Any, sent: jax.Array, low: Any, high: Any) -> Any:
  """The mean of values that are of rank low to high - 1 in their coordinate.

  Values that are no numbers have the highest ranks.
  """

  def mean(x):
    along = (-1, *(1,) * (x.ndim - 1))
    # Those of the absent come last.
    ranked = jnp.sort(jnp.where(sent.reshape(along), x, jnp.nan), axis=0)
    rank = jnp.arange(x.shape[0]).reshape(along)
    kept = (rank >= low) & (rank < high)
    return jnp.sum(jnp.where(kept, ranked, 0.0), axis=0) / (high - low)

  return jax.tree.map(mean, messages)


def median(messages: Any, sent: jax.Array) -> Any:
  """The median of each coordinate, over those who sent.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`. If nobody did, the result means nothing.

  Returns:
    Tree of arrays `[...]`; of an even number, the mean of the middle two.
  """
  count = jnp.sum(sent)
  return _mean_of_ranks(messages, sent, (count - 1) // 2, count // 2 + 1)


def trimmed_mean(messages: Any, sent: jax.Array, trim: float) -> Any:
  """The mean of each coordinate without its extremes, over those who sent.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`. If nobody did, the result means nothing.
    trim: share of the values that is left out at either end, rounded down, in
      [0, 0.5).

  Returns:
    Tree of arrays `[...]`.
  """
  counts = np.arange(sent.shape[0] + 1)
  # 0.29 times 100 is 29.
  cuts = np.floor(trim * counts + 1e-9).astype(np.int32)
  # Nor is anything below a half that half.
  cuts = np.minimum(cuts, np.maximum(counts - 1, 0) // 2)
  count = jnp.sum(sent)
  cut = jnp.asarray(cuts)[count]
  return _mean_of_ranks(messages, sent, cut, count - cut)


def with_aggregation(
  method: api.FederatedMethod,
  aggregation: str,
  *,
  trim: float = 0.1,
  clip_norm: float = 1.0,
) -> api.FederatedMethod:
  """The method with another average than the mean.

  Args:
    method: one that `averages`.
    aggregation: one of `AGGREGATIONS`; "mean" is the method itself.
    trim: of "trimmed_mean", see there.
    clip_norm: of "norm_clipped_mean", the L2 norm that a message has at most.
  """
  if aggregation == "mean":
    return method

  def receive_clipped(server, message, weight, context, cohort):
    message = clip(message, clip_norm)
    return method.receive(server, message, weight, context, cohort)

  if aggregation == "norm_clipped_mean":
    return method.replace(receive=receive_clipped)

  def receive_apart(server, message, weight, context, cohort):
    del message
    return api.weighted_sum(server, (), weight, context, cohort)

  def server_update(server, aggregates, context):
    clients, messages, weights = server_lib.all_collected(aggregates)
    sent = (clients >= 0) & (weights > 0)
    if aggregation == "median":
      center = median(messages, sent)
    else:
      center = trimmed_mean(messages, sent, trim)
    new = instead_of_mean(aggregates, center, jnp.any(sent))
    return method.server_update(server, new, context)

  return method.replace(
    receive=receive_apart,
    collect=lambda message: message,
    server_update=server_update,
  )
