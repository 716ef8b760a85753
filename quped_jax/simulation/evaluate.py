"""A model's outputs on samples in batches; accuracies of clients."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Batch, ClientData, Split
from quped_jax.models import Model


def map_batches(
  fn: Callable[[Batch], Any],
  data: ClientData,
  positions: jax.Array | None = None,
  batch_size: int = 500,
) -> Any:
  """Applies a function to training samples, some at a time.

  Args:
    fn: of a batch, to a tree of arrays `[batch, ...]`.
    data: the samples, those of a public set say.
    positions: int32 `[count]`, which of them, at least one; None for
      `data.train.max_count` of them from the first, where those past the end
      are the last one again.
    batch_size: samples seen at once; memory, not result, depends on it.

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
    stats: its running statistics, which are used as they are.
    data: the samples; those of a public set are `PublicSet.data()`.
    positions: int32 `[count]`, which of them; None for all.
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


def accuracy(
  model: Model,
  params: Any,
  stats: Any,
  data: ClientData,
  split: str,
  batch_size: int = 500,
) -> jax.Array:
  """Share of a split's samples that a model classifies correctly.

  Args:
    model: the network.
    params: its parameters.
    stats: its running statistics, which are used as they are.
    data: the client's samples.
    split: "train", "validation" or "test".
    batch_size: samples seen at once; memory, not result, depends on it.

  Returns:
    float32 `[]`, in [0, 1]; NaN for a split without samples.
  """
  part: Split = getattr(data, split)
  batch_size = min(batch_size, max(part.max_count, 1))
  batches = -(-max(part.max_count, 1) // batch_size)

  def correct(start):
    positions = start + jnp.arange(batch_size, dtype=jnp.int32)
    batch = data.batch(jnp.minimum(positions, part.count - 1), split)
    logits, _ = model.apply(params, stats, batch.inputs, False)
    hits = jnp.argmax(logits, axis=-1) == batch.labels
    # The largest of logits that are NaN is the first: no prediction at all.
    hits &= jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.sum(hits & (positions < part.count))

  if batches == 1:
    hits = correct(jnp.int32(0))
  else:
    starts = jnp.arange(batches, dtype=jnp.int32) * batch_size
    hits = jnp.sum(jax.lax.map(correct, starts))
  share = hits.astype(jnp.float32) / jnp.maximum(part.count, 1)
  return jnp.where(part.count > 0, share, jnp.nan)


def accuracies(
  variants: Mapping[str, tuple[Any, Any, Model]],
  data: ClientData,
  splits: tuple[str, ...],
  batch_size: int = 500,
) -> dict[str, dict[str, jax.Array]]:
  """Accuracy of every variant of a client's model on every split.

  Args:
    variants: name to (params, stats, model).
    data: the client's samples.
    splits: names of splits.
    batch_size: samples seen at once.

  Returns:
    {split: {variant: accuracy}}.
  """
  return {
    split: _each_once(variants, data, split, batch_size) for split in splits
  }


def _each_once(variants, data, split, batch_size) -> dict[str, jax.Array]:
  """Evaluates variants that are one model under two names only once."""
  results: dict[str, jax.Array] = {}
  for name, variant in variants.items():
    same = [
      results[earlier]
      for earlier in results
      if all(a is b for a, b in zip(variants[earlier], variant, strict=True))
    ]
    params, stats, model = variant
    results[name] = (
      same[0]
      if same
      else accuracy(model, params, stats, data, split, batch_size)
    )
  return results
