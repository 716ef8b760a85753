"""Small convolutional networks for images of 28x28 and 32x32 pixels.

References:
  McMahan et al., Communication-Efficient Learning of Deep Networks from
  Decentralized Data, 2017: the network for grey images and, after the
  TensorFlow tutorials, that for CIFAR.
  Ozkara et al., QuPeD: Quantized Personalization via Distillation with
  Applications to Federated Learning, 2021: CNN1 and CNN2.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from quped_jax.models.conv import check_images
from quped_jax.models.mlp import layer_name, logits
from quped_jax.models.pool import max_pool_2x2

_POOLED = 2  # Convolutions that are followed by pooling.
_WINDOW = 5  # Their height and width.

# How images are padded before a convolution: so that they keep their size, or
# not at all.
PADDINGS = ("same", "valid")


class CNN(nn.Module):
  """Convolutions of 5x5, the first two pooled 2x2, then dense layers.

  The layers are named `first`, `hidden_1`, `hidden_2`, ..., `last`, whether
  convolutional or dense. Convolutions beyond the second follow the second
  pooling, so that the dense layers have the same shape with and without them.

  Attributes:
    num_classes: width of the last layer.
    conv_features: channels of the convolutions.
    dense_features: widths of the dense layers before the last.
    conv: function with the arguments of `jax.lax.conv_general_dilated`.
    dtype: type of the computation; None for that of parameters and inputs.
    padding: of the convolutions, one of PADDINGS.
  """

  num_classes: int
  conv_features: tuple[int, ...] = (32, 64)
  dense_features: tuple[int, ...] = (512,)
  conv: Callable[..., jax.Array] = lax.conv_general_dilated
  dtype: Any = None
  padding: str = "same"

  @property
  def block_layers(self) -> dict[str, tuple[str, ...]]:
    """Every layer is a block, see `from_linen`."""
    count = len(self.conv_features) + len(self.dense_features)
    names = [layer_name(index) for index in range(count)]
    return {name: (name,) for name in (*names, "last")}

  @nn.compact
  def __call__(
    self,
    inputs: jax.typing.ArrayLike,
    only: tuple[str, ...] | None = None,
  ) -> jax.Array:
    """Maps `[batch, height, width, channels]` to `[batch, num_classes]`."""
    outputs = jnp.asarray(inputs)
    if only is None:
      self._check_size(*check_images(inputs).shape[1:3])
    for index, name in enumerate(self.block_layers):
      if only is None or name in only:
        outputs = self._layer(name, index, outputs)
    return outputs

  def _check_size(self, height: int, width: int) -> None:
    """Raises a ValueError if images are too small not to be padded."""
    if self.padding == "same":
      return  # Pooling says so itself.
    least = 1
    for index in reversed(range(len(self.conv_features))):
      least = least * (2 if index < _POOLED else 1) + _WINDOW - 1
    if min(height, width) < least:
      raise ValueError(
        f"padding={self.padding!r}: must be 'same' for images of {height} x "
        f"{width}; {len(self.conv_features)} convolutions of {_WINDOW} x "
        f"{_WINDOW} without padding take those of {least} x {least} at least"
      )

  def _layer(self, name: str, index: int, outputs: jax.Array) -> jax.Array:
    if index < len(self.conv_features):
      outputs = nn.Conv(
        self.conv_features[index],
        (_WINDOW, _WINDOW),
        padding=self.padding.upper(),
        dtype=self.dtype,
        conv_general_dilated=self.conv,
        name=name,
      )(outputs)
      # Before the relu, with which a maximum commutes: the relu has a quarter
      # of the work, and the convolution's outputs need not be kept for the
      # backward pass.
      return nn.relu(max_pool_2x2(outputs) if index < _POOLED else outputs)
    widths = (*self.dense_features, self.num_classes)
    width = widths[index - len(self.conv_features)]
    outputs = outputs.reshape(outputs.shape[0], -1)
    outputs = nn.Dense(width, dtype=self.dtype, name=name)(outputs)
    return logits(outputs) if name == "last" else nn.relu(outputs)
