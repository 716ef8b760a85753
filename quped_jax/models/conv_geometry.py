"""What is static about a convolution, from the arguments that flax passes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Geometry(NamedTuple):
  """The static part of a convolution with channels last.

  Attributes:
    size: spatial sizes of the input.
    window: spatial sizes of the kernel.
    strides: per spatial axis.
    padding: (low, high) per spatial axis.
    precision: of the product.
    element_type: of the product.
  """

  size: tuple[int, ...]
  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  precision: Any
  element_type: Any

  @property
  def out_size(self) -> tuple[int, ...]:
    return tuple(
      (size + low + high - extent) // stride + 1
      for size, extent, stride, (low, high) in zip(
        self.size, self.window, self.strides, self.padding, strict=True
      )
    )


def normalize(
  name,
  lhs,
  rhs,
  window_strides,
  padding,
  lhs_dilation,
  rhs_dilation,
  dimension_numbers,
  feature_group_count,
  batch_group_count,
  precision,
  preferred_element_type,
):
  """Checks the arguments and moves the channels last.

  Returns:
    The geometry, lhs as [batch, spatial..., in], rhs as [spatial..., in, out],
    and a function that brings [batch, spatial..., out] to the requested layout.
  """
  for field, value in (
    ("lhs_dilation", lhs_dilation),
    ("rhs_dilation", rhs_dilation),
    ("feature_group_count", (feature_group_count,)),
    ("batch_group_count", (batch_group_count,)),
  ):
    if value is not None and any(entry != 1 for entry in value):
      raise ValueError(
        f"{field}={tuple(value)}: must be 1 with {name} (or use conv='native')"
      )
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  lhs = channels_last(lhs, numbers.lhs_spec)
  rhs = jnp.moveaxis(channels_last(rhs, numbers.rhs_spec), 0, -1)
  *window, in_features, _ = rhs.shape
  size = lhs.shape[1:-1]
  if lhs.shape[-1] != in_features:
    raise ValueError(
      f"lhs: must have {in_features} channels, as rhs has; got {lhs.shape[-1]}"
    )
  names = ("SAME", "SAME_LOWER", "VALID")
  if isinstance(padding, str) and padding not in names:
    raise ValueError(f"padding={padding!r}: must be one of {names}, or pairs")
  for field, value in (
    ("window_strides", window_strides),
    ("padding", padding),
  ):
    if not isinstance(value, str) and len(value) != len(size):
      raise ValueError(
        f"{field}={tuple(value)}: must have one entry for each of "
        f"{len(size)} spatial axes"
      )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(size, window, window_strides, padding)
  geometry = Geometry(
    size,
    tuple(window),
    tuple(window_strides),
    tuple((int(low), int(high)) for low, high in padding),
    precision,
    preferred_element_type,
  )
  if min(geometry.out_size) < 1:
    padded = tuple(
      n + low + high for n, (low, high) in zip(size, padding, strict=True)
    )
    raise ValueError(
      f"rhs: must have a window of at most {padded}, the size of the padded "
      f"lhs; got {tuple(window)}"
    )
  batch_axis, feature_axis, *spatial_axes = numbers.out_spec
  order = (batch_axis, *spatial_axes, feature_axis)

  def restore(out):
    return out.transpose([order.index(axis) for axis in range(len(order))])

  return geometry, lhs, rhs, restore


def channels_last(array: jax.Array, spec: Sequence[int]) -> jax.Array:
  """Moves the axes (first, second, *spatial) to (first, *spatial, second)."""
  first, second, *spatial = spec
  return array.transpose(first, *spatial, second)
