"""Residual networks for images of 32x32 pixels.

References:
  He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from quped_jax.models.conv import check_images
from quped_jax.models.mlp import logits


class ResNet(nn.Module):
  """Three stages of residual blocks: 6 * blocks + 2 layers with weights.

  The first convolution is named `first`, the dense layer `last`, and the two
  convolutions of a block `stage_S/block_B` are `conv_1` and `conv_2`.

  Attributes:
    num_classes: width of the last layer.
    blocks: residual blocks in each stage.
    features: channels of the three stages.
    conv: function with the arguments of `jax.lax.conv_general_dilated`.
    dtype: type of the computation; None for that of parameters and inputs.
  """

  num_classes: int
  blocks: int
  features: tuple[int, ...] = (16, 32, 64)
  conv: Callable[..., jax.Array] = lax.conv_general_dilated
  dtype: Any = None

  @property
  def block_layers(self) -> dict[str, tuple[str, ...]]:
    """The first convolution, the residual blocks, and the last layer."""
    residual = {name: (name,) for name in self._residual}
    return {"first": ("first", "first_norm"), **residual, "last": ("last",)}

  @property
  def _residual(self) -> dict[str, tuple[int, int]]:
    """Channels and stride of the residual blocks, by name."""
    return {
      f"stage_{stage + 1}_block_{block + 1}": (
        channels,
        2 if stage and not block else 1,
      )
      for stage, channels in enumerate(self.features)
      for block in range(self.blocks)
    }

  @nn.compact
  def __call__(
    self,
    inputs: jax.typing.ArrayLike,
    train: bool,
    only: tuple[str, ...] | None = None,
  ) -> jax.Array:
    """Maps `[batch, height, width, channels]` to `[batch, num_classes]`."""
    outputs = check_images(inputs) if only is None else jnp.asarray(inputs)
    for name in self.block_layers:
      if only is None or name in only:
        outputs = self._part(name, outputs, train)
    return outputs

  def _part(self, name: str, outputs: jax.Array, train: bool) -> jax.Array:
    if name == "first":
      outputs = _convolution(self, self.features[0], 1, name)(outputs)
      return nn.relu(_normalisation(self, train, "first_norm")(outputs))
    if name == "last":
      dense = nn.Dense(self.num_classes, dtype=self.dtype, name=name)
      return logits(dense(outputs))
    channels, stride = self._residual[name]
    block = _Block(channels, stride, self.conv, self.dtype, name=name)
    outputs = block(outputs, train)
    # The features are the means of the last channels.
    last = name == list(self._residual)[-1]
    return outputs.mean(axis=(1, 2)) if last else outputs


class _Block(nn.Module):
  """Two 3x3 convolutions and a shortcut without parameters (option A)."""

  channels: int
  stride: int
  conv: Callable[..., jax.Array]
  dtype: Any

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
    outputs = _convolution(self, self.channels, self.stride, "conv_1")(inputs)
    outputs = nn.relu(_normalisation(self, train, "norm_1")(outputs))
    outputs = _convolution(self, self.channels, 1, "conv_2")(outputs)
    outputs = _normalisation(self, train, "norm_2")(outputs)
    shortcut = inputs[:, :: self.stride, :: self.stride]
    added = self.channels - inputs.shape[-1]
    shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, added)))
    return nn.relu(outputs + shortcut)


def _convolution(
  parent: ResNet | _Block, channels: int, stride: int, name: str
) -> nn.Conv:
  return nn.Conv(
    channels,
    (3, 3),
    strides=stride,
    # "SAME" does this for odd sizes only; here the window is always centred.
    padding=1,
    use_bias=False,
    dtype=parent.dtype,
    kernel_init=nn.initializers.he_normal(),
    conv_general_dilated=parent.conv,
    name=name,
  )


def _normalisation(
  parent: ResNet | _Block, train: bool, name: str
) -> nn.BatchNorm:
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    dtype=parent.dtype,
    name=name,
  )
