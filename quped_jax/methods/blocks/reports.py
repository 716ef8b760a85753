"""What clients say of their samples and outputs, and whether it may be true.

Each check holds for whatever an honest client sends, up to rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp

# As a share: of sums of whole numbers, and of sums of bfloat16.
_COUNT_SLACK = 1e-5
_SUM_SLACK = 0.02


def are_counts(counts: jax.Array, most: Any) -> jax.Array:
  """Whether these may be numbers of samples by label, bool `[]`.

  Args:
    counts: `[classes]`.
    most: how many samples there are at most.
  """
  total = jnp.sum(counts)
  return jnp.all(counts >= 0) & (total <= most * (1 + _COUNT_SLACK))


def are_probabilities(values: jax.Array, totals: Any = 1.0) -> jax.Array:
  """Whether these may be probabilities, or sums of so many, bool `[]`.

  Args:
    values: `[..., classes]`.
    totals: `[...]`, what they must add up to.
  """
  off = jnp.abs(jnp.sum(values, axis=-1) - totals)
  return jnp.all(values >= 0) & jnp.all(off <= _SUM_SLACK * totals)


def are_labels(labels: jax.Array, count: Any, classes: int) -> jax.Array:
  """Whether these may be labels, bool `[]`.

  Args:
    labels: int32 `[max_count]`.
    count: how many of them there are; the rest is padding.
    classes: the number of classes.
  """
  padding = jnp.arange(labels.shape[0]) >= count
  return jnp.all(padding | ((labels >= 0) & (labels < classes)))
