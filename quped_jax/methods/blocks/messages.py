"""Weights and means of the clients' messages."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from quped_jax.data.federation import ClientData
from quped_jax.methods import by_precision
from quped_jax.methods.api import Aggregate, GlobalModel
from quped_jax.methods.blocks import trees
from quped_jax.quantization.codebook_tree import path_name


def client_weight(weighting: str, data: ClientData) -> Any:
  """A client's weight in the mean: 1, or its number of training samples."""
  return 1.0 if weighting == "uniform" else data.train.count


def mean_message(aggregates: Mapping[str, Aggregate], like: Any) -> Any:
  """Weighted mean of the messages of all cohorts; zero if there are none.

  Args:
    aggregates: the sums that the server received, by cohort.
    like: a tree with the structure of what the server holds.

  Returns:
    A tree like `like`.
  """
  weight = sum(a.weight for a in aggregates.values())
  totals = [a.total for a in aggregates.values()]

  def mean(total, leaf):
    return by_precision.share(total, weight).astype(leaf.dtype)

  return by_precision.map_parts(
    mean,
    lambda heard, _: by_precision.mean(heard),
    jax.tree.map(lambda *parts: sum(parts), *totals),
    like,
  )


def add(model: GlobalModel, difference: GlobalModel) -> GlobalModel:
  """A model with a difference added, of which no variance becomes negative.

  Args:
    model: the server's.
    difference: the mean difference, see `mean_message`.
  """
  params: Any = optax.apply_updates(model.params, difference.params)
  stats: Any = optax.apply_updates(
    model.stats, keep_variances(difference.stats, model.stats)
  )
  held, moved = model.quantized_stats, difference.quantized_stats
  if held is None or moved is None:
    return GlobalModel(params, stats, held)
  base = by_precision.known(held, model.stats)
  moved = moved._replace(values=keep_variances(moved.values, base))
  return GlobalModel(params, stats, by_precision.add(held, moved, model.stats))


def keep_variances(difference: Any, stats: Any) -> Any:
  """Limits a difference of statistics so that no variance becomes negative.

  An honest client's variances cannot make one negative, but false messages and
  noise can.

  Args:
    difference: what is to be added to the statistics.
    stats: variances are named `var`, as in flax.
  """

  def keep(path, d, s):
    is_variance = path_name(path).split("/")[-1] == "var"
    return jnp.maximum(d, -s) if is_variance else d

  return jax.tree_util.tree_map_with_path(keep, difference, stats)


def follow(model: GlobalModel, stats: Any) -> Any:
  """Statistics of quantized forms, moved as the model's own were.

  A server that trains a model has no levels, so it cannot run its quantized
  forms itself.

  Args:
    model: the model before it was trained.
    stats: its statistics after it.

  Returns:
    What the server then holds; None if there are none.
  """
  if model.quantized_stats is None:
    return None
  held = model.quantized_stats
  # The statistics of each precision move alike.
  difference = jax.tree.map(
    lambda x, d: jnp.broadcast_to(d, x.shape),
    held.values,
    trees.difference(stats, model.stats),
  )
  moved = keep_variances(difference, held.values)
  return held._replace(values=jax.tree.map(jnp.add, held.values, moved))


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
