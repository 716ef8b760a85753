"""A building block: a server that remembers its last global models."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.methods import api
from quped_jax.methods.blocks import messages, personal


class History(NamedTuple):
  """The last M global models; fewer in the first rounds.

  Attributes:
    models: GlobalModel of arrays `[M, ...]`, the newest first.
    count: int32 `[]`, how many of them exist so far, from 1 to M; the rest
      repeat the initial one.
  """

  models: api.GlobalModel
  count: Any

  @property
  def model(self) -> api.GlobalModel:
    """The newest model."""
    return nth(self.models, 0)


def nth(models: api.GlobalModel, index: int) -> api.GlobalModel:
  """The model at an index."""
  return jax.tree.map(lambda x: x[index], models)


def begin(model: api.GlobalModel, length: int) -> History:
  """The history of an initial model, with room for `length` models."""
  models = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (length, *x.shape)), model
  )
  return History(models, jnp.int32(1))


def remembered(history: History) -> jax.Array:
  """Which of the models exist so far, bool `[M]`."""
  length = jax.tree.leaves(history.models)[0].shape[0]
  return jnp.arange(length) < history.count


def mean(history: History) -> api.GlobalModel:
  """The mean of the models that exist: of parameters and of statistics."""
  counts = remembered(history)

  def one(x):
    mask = counts.reshape(-1, *(1,) * (x.ndim - 1))
    total = jnp.sum(jnp.where(mask, x, 0), axis=0)
    return (total / history.count).astype(x.dtype)

  return jax.tree.map(one, history.models)


def add_mean(
  server: History, aggregates: dict[str, api.Aggregate], context: api.Context
) -> History:
  """`personal.add_mean`, which also remembers the model before it."""
  model = personal.add_mean(server.model, aggregates, context)
  models = jax.tree.map(
    lambda new, old: jnp.concatenate([new[None], old[:-1]]),
    model,
    server.models,
  )
  length = jax.tree.leaves(models)[0].shape[0]
  count = jnp.minimum(server.count + 1, length)
  return messages.if_heard(aggregates, History(models, count), server)
