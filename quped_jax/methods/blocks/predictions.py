"""What a model says about samples, a batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Batch, ClientData
from quped_jax.models import Model


def map_batches(
  fn: Callable[[Batch], Any],
  data: ClientData,
  positions: jax.Array | None = None,
  batch_size: int = 500,
) -> Any:
  """Applies a function to training samples, a batch at a time.

  Args:
    fn: `batch -> tree of arrays [batch, ...]`.
    data: the samples, for instance those of a public set.
    positions: int32 `[count]`, the positions of the samples to use, at least
      one; None for the first `data.train.max_count`, where the last sample
      fills the positions past the end.
    batch_size: samples seen at once; it affects memory, not the result.

  Returns:
    The function's results, a tree of arrays `[count, ...]`.
  """
  if positions is None:
    positions = jnp.arange(data.train.max_count, dtype=jnp.int32)
    positions = jnp.minimum(positions, data.train.count - 1)
  count = positions.shape[0]
  if count <= batch_size:
    return fn(data.batch(positions))
  batches = -(-count // batch_size)
  padded = jnp.pad(positions, (0, batches * batch_size - count), mode="edge")
  results = jax.lax.map(
    lambda part: fn(data.batch(part)), padded.reshape(batches, batch_size)
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], results)


def predict(
  model: Model,
  params: Any,
  stats: Any,
  data: ClientData,
  positions: jax.Array | None = None,
  batch_size: int = 500,
) -> jax.Array:
  """Logits of a model for training samples, see `map_batches`.

  Args:
    model: the network.
    params: its parameters.
    stats: its running statistics, which are not updated.
    data: the samples; those of a public set are `PublicSet.data()`.
    positions: int32 `[count]`, the positions of the samples; None for all.
    batch_size: samples seen at once.

  Returns:
    `[count, classes]`.
  """
  return map_batches(
    lambda batch: model.apply(params, stats, batch.inputs, False)[0],
    data,
    positions,
    batch_size,
  )
