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

  @property
  def block_layers(self) -> dict[str, tuple[str, ...]]:
    """Every layer is a block, see `from_linen`."""
    names = [layer_name(index) for index in range(len(self.features))]
    return {name: (name,) for name in (*names, "last")}

  @nn.compact
  def __call__(
    self,
    inputs: jax.typing.ArrayLike,
    only: tuple[str, ...] | None = None,
  ) -> jax.Array:
    """Maps `[batch, ...]` to logits `[batch, num_classes]`."""
    outputs = jnp.asarray(inputs)
    outputs = outputs.reshape(outputs.shape[0], -1)
    widths = (*self.features, self.num_classes)
    for name, width in zip(self.block_layers, widths, strict=True):
      if only is None or name in only:
        outputs = nn.Dense(width, dtype=self.dtype, name=name)(outputs)
        outputs = logits(outputs) if name == "last" else nn.relu(outputs)
    return outputs


def layer_name(index: int) -> str:
  """The name of a layer before the last: "first", "hidden_1", ..."""
  return f"hidden_{index}" if index else "first"


def logits(outputs: jax.Array) -> jax.Array:
  """Outputs of the last layer, of which losses are taken, in float32."""
  return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
