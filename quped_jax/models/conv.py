"""Convolution and pooling that stay fast when every client has its own kernel.

`jax.vmap` over kernels turns a native convolution into a grouped one, which is
slow on CPU, and a native convolution inside a compiled loop is slower still.
A product of matrices has neither weakness.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def shift_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
) -> jax.Array:
  """Convolves by shifting, concatenating and one product of matrices.

  Pads the input, takes one shifted (and strided) window per kernel position,
  concatenates them on the channels and multiplies with the flattened kernel.
  It equals `jax.lax.conv_general_dilated` and takes the same arguments, so it
  serves as `flax.linen.Conv(conv_general_dilated=shift_conv)`. The windows
  take prod(kernel sizes) times the memory of the input.

  Args:
    lhs: the input, laid out as `dimension_numbers` say.
    rhs: the kernel, likewise.
    window_strides: one stride per spatial axis.
    padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"` or a pair (low, high) per
      spatial axis.
    lhs_dilation: None or ones.
    rhs_dilation: None or ones.
    dimension_numbers: as for `jax.lax.conv_general_dilated`.
    feature_group_count: 1.
    batch_group_count: 1.
    precision: of the product, as for `jax.lax.dot_general`.
    preferred_element_type: of the product, as for `jax.lax.dot_general`.

  Returns:
    The output, laid out as `dimension_numbers` say.

  Raises:
    ValueError: for dilations or groups other than 1, for channels that do not
      fit, or for a kernel that is larger than the padded input.
  """
  for field, value in (
    ("lhs_dilation", lhs_dilation),
    ("rhs_dilation", rhs_dilation),
    ("feature_group_count", (feature_group_count,)),
    ("batch_group_count", (batch_group_count,)),
  ):
    if value is not None and any(entry != 1 for entry in value):
      raise ValueError(
        f"{field} = {tuple(value)} is not supported by shift_conv; allowed is "
        "1 (or use conv='native')"
      )
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  # To [batch, spatial..., in] and [spatial..., in, out].
  lhs = _channels_last(lhs, numbers.lhs_spec)
  rhs = _channels_last(rhs, numbers.rhs_spec)
  rhs = jnp.moveaxis(rhs, 0, -1)
  *window, in_features, out_features = rhs.shape
  if lhs.shape[-1] != in_features:
    raise ValueError(
      f"lhs has {lhs.shape[-1]} channels; allowed is {in_features}, the number "
      f"that rhs has"
    )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[1:-1], window, window_strides, padding
    )
  no_padding = (0, 0, 0)
  lhs = lax.pad(
    lhs,
    jnp.zeros((), lhs.dtype),
    [no_padding, *((low, high, 0) for low, high in padding), no_padding],
  )
  spatial = [
    (size - extent) // stride + 1
    for size, extent, stride in zip(
      lhs.shape[1:-1], window, window_strides, strict=True
    )
  ]
  if min(spatial) < 1:
    raise ValueError(
      f"rhs has a window of {tuple(window)}; allowed is at most "
      f"{lhs.shape[1:-1]}, the size of the padded lhs"
    )
  shifted = [
    lax.slice(
      lhs,
      (0, *offsets, 0),
      (
        lhs.shape[0],
        *(
          offset + (size - 1) * stride + 1
          for offset, size, stride in zip(
            offsets, spatial, window_strides, strict=True
          )
        ),
        lhs.shape[-1],
      ),
      (1, *window_strides, 1),
    )
    for offsets in itertools.product(*map(range, window))
  ]
  windows = jnp.concatenate(shifted, axis=-1)
  out = lax.dot_general(
    windows.reshape(-1, windows.shape[-1]),
    rhs.reshape(-1, out_features),
    (((1,), (0,)), ((), ())),
    precision=precision,
    preferred_element_type=preferred_element_type,
  )
  out = out.reshape(lhs.shape[0], *spatial, out_features)
  batch_axis, feature_axis, *spatial_axes = numbers.out_spec
  order = (batch_axis, *spatial_axes, feature_axis)
  return out.transpose([order.index(axis) for axis in range(len(order))])


def _channels_last(array: jax.Array, spec: Sequence[int]) -> jax.Array:
  """Moves the axes (first, second, *spatial) to (first, *spatial, second)."""
  first, second, *spatial = spec
  return array.transpose(first, *spatial, second)


def check_images(inputs: jax.typing.ArrayLike) -> jax.Array:
  """Returns inputs as an array, or raises ValueError if they are no images."""
  images = jnp.asarray(inputs)
  if images.ndim != 4:
    raise ValueError(
      f"inputs have shape {images.shape}; allowed is [batch, height, width, "
      "channels]"
    )
  return images


def max_pool_2x2(inputs: jax.Array) -> jax.Array:
  """Takes the maximum over windows of 2x2, by a reshape.

  An odd last row or column is dropped. Equal maxima in a window share its
  gradient evenly, where `flax.linen.max_pool` gives all of it to the first:
  both are subgradients, and after a relu the ties at 0 pass none on.

  Args:
    inputs: `[..., height, width, channels]`, height and width at least 2.

  Returns:
    `[..., height // 2, width // 2, channels]`.

  Raises:
    ValueError: if height or width is less than 2.
  """
  *batch, height, width, channels = inputs.shape
  if min(height, width) < 2:
    raise ValueError(
      f"inputs of max_pool_2x2 have height {height} and width {width}; allowed "
      "is at least 2"
    )
  even = inputs[..., : height // 2 * 2, : width // 2 * 2, :]
  windows = even.reshape(*batch, height // 2, 2, width // 2, 2, channels)
  return windows.max(axis=(-4, -2))


_CONVS = {
  "auto": shift_conv,
  "native": lax.conv_general_dilated,
  "shift": shift_conv,
}


def resolve_conv(name: str) -> Callable[..., jax.Array]:
  """Returns the convolution of this name.

  Measured for one SGD step of a network with two 5x5 convolutions, 8 clients
  with batches of 32, on two CPU cores: native in `lax.map` 8-11 s, native
  under `vmap` 1.6 s, shift under `vmap` 0.4-0.9 s, shift in `lax.map`
  0.2-0.5 s. Where no loop is compiled around it and no kernel is mapped over,
  native is the fastest of all.

  Args:
    name: `"native"` for `jax.lax.conv_general_dilated`, `"shift"` for
      `shift_conv`, or `"auto"`, which is `"shift"` on every backend.

  Returns:
    A function with the arguments of `jax.lax.conv_general_dilated`.

  Raises:
    ValueError: if there is no such convolution.
  """
  if name not in _CONVS:
    raise ValueError(f"conv = {name!r}; allowed are {sorted(_CONVS)}")
  return _CONVS[name]
