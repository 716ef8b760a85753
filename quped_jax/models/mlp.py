"""Multilayer perceptron."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

DEFAULT_WIDTHS = (64, 64)


class MLP(nn.Module):
  """Dense layers with relu between them.

  The layers are named `first`, `hidden_1`, `hidden_2`, ..., `last`.

  Attributes:
    num_classes: width of the last layer.
    features: widths of the layers before it; empty for a linear classifier.
    dtype: type of the computation; None for that of parameters and inputs.
  """

  num_classes: int
  features: tuple[int, ...] = DEFAULT_WIDTHS
  dtype: Any = None

  @nn.compact
  def __call__(self, inputs: jax.typing.ArrayLike) -> jax.Array:
    """Maps `[batch, ...]` to logits `[batch, num_classes]`."""
    outputs = jnp.asarray(inputs)
    outputs = outputs.reshape(outputs.shape[0], -1)
    for index, width in enumerate(self.features):
      name = f"hidden_{index}" if index else "first"
      outputs = nn.relu(nn.Dense(width, dtype=self.dtype, name=name)(outputs))
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="last")(outputs)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
