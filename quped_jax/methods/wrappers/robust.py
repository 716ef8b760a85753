"""Averages that bear with some false messages, and clients that send them.

Each is a wrapper of a method whose server takes the mean of what clients send
(`FederatedMethod.averages`), of all cohorts together:

  median             of each coordinate, over those who sent
  trimmed mean       of each coordinate, without its smallest and largest values
  norm-clipped mean  of messages none of which is longer than a bound

Median and trimmed mean weigh all clients alike, as who lies about its weights
may lie about how many samples it has, but for clients of weight 0, which are
left out. They take the memory of all messages at once. The norm-clipped mean
has the method's own weights.

References:
  Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning:
  Towards Optimal Statistical Rates, 2018.
  Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?,
  2019.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quped_jax import random_keys
from quped_jax.methods import api
from quped_jax.methods.blocks import server as server_lib

AGGREGATIONS = ("mean", "median", "trimmed_mean", "norm_clipped_mean")
ATTACKS = ("random", "sign_flip")


def check_aggregation(aggregation: str, client_state: str) -> None:
  """Raises a ValueError unless messages can be averaged so; see `Settings`."""
  if aggregation in ("median", "trimmed_mean") and client_state != "device":
    raise ValueError(
      f"client_state={client_state!r}: must be 'device' with aggregation="
      f"{aggregation!r}, which looks at single messages"
    )


def check_attack(byzantine_clients: int, clients: int) -> None:
  """Raises a ValueError unless so many can send false messages."""
  if not 0 <= byzantine_clients < clients:
    raise ValueError(
      f"byzantine_clients={byzantine_clients}: must be at least 0 and less "
      f"than clients={clients}"
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


def clip(message: Any, bound: float) -> Any:
  """A message whose L2 norm, of all its arrays together, is at most a bound.

  One that is not finite becomes zero.
  """
  norm = optax.tree.norm(message)
  scale = bound / jnp.maximum(norm, bound)
  finite = jnp.isfinite(norm)
  return jax.tree.map(
    lambda m: jnp.where(finite, scale * m, 0.0).astype(m.dtype), message
  )


def instead_of_mean(
  aggregates: Mapping[str, api.Aggregate], mean: Any, weight: Any
) -> dict[str, api.Aggregate]:
  """Aggregates of all cohorts whose `mean_message` is the given one.

  Args:
    aggregates: what was received.
    mean: a tree like a message.
    weight: 1, or 0 if nobody sent anything.
  """
  return {next(iter(aggregates)): api.Aggregate(mean, jnp.float32(weight))}


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


def _sign_flip(message: Any, key: jax.Array, scale: float) -> Any:
  del key
  return optax.tree.scale(-scale, message)


def _random(message: Any, key: jax.Array, scale: float) -> Any:
  noise = optax.tree.random_like(key, message, jax.random.normal)
  return optax.tree.scale(scale, noise)


_FALSE: Mapping[str, Callable[..., Any]] = {
  "random": _random,
  "sign_flip": _sign_flip,
}


def with_byzantine_clients(
  method: api.FederatedMethod, first: int, attack: str, scale: float
) -> api.FederatedMethod:
  """The method where some clients send something else than they should.

  They train, and are evaluated, as the others are.

  Args:
    method: any, with messages of floats.
    first: the clients of this number and above do it.
    attack: one of `ATTACKS`: "sign_flip" is minus `scale` times the message,
      "random" Gaussian noise of standard deviation `scale`.
    scale: see there.
  """

  def client_update(download, client, data, context, cohort):
    result = method.client_update(download, client, data, context, cohort)
    key = jax.random.fold_in(context.key, random_keys.ATTACK)
    false = _FALSE[attack](result.message, key, scale)
    lies = context.client_id >= first
    message = jax.tree.map(
      lambda a, b: jnp.where(lies, a, b).astype(b.dtype), false, result.message
    )
    return result._replace(message=message)

  return method.replace(client_update=client_update)
