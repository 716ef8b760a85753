"""A model's accuracy on the samples of clients."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.data.federation import ClientData, Split
from quped_jax.models import Model


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
