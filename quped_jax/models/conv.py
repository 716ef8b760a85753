"""Convolutions that stay fast when every client has its own kernel.

On CPU, XLA computes a convolution quickly only if its axes are in one order
(batch, spatial, features; spatial, in, out). It brings other orders, such as
those of gradients, into this one outside of compiled loops, but not inside:
there a gradient takes 25 times as long. `canonical_conv` writes the gradients
in that order itself, so it is fast in loops over clients and over their steps
as well as under vmap, where it becomes a grouped convolution.

On accelerators, grouped convolutions in float32 are slow: there, kernels that
differ between clients are applied as matrix products (`shift_conv`). The table
in `conv_forms.py` says which form `"auto"` takes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from quped_jax import checks
from quped_jax.models import conv_forms, conv_geometry


def _make_conv(
  name: str, compute: Callable[..., jax.Array], doc: str
) -> Callable[..., jax.Array]:
  """Makes `compute(geometry, lhs, rhs)` take the arguments that flax passes."""

  def conv(
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
    geometry, lhs, rhs, restore = conv_geometry.normalize(
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
    )
    return restore(compute(geometry, lhs, rhs))

  conv.__name__ = conv.__qualname__ = name
  conv.__doc__ = doc
  return conv


shift_conv = _make_conv(
  "shift_conv",
  conv_forms.shift,
  """Convolves by shifting, concatenating and one matrix product.

  Pads the input, takes one shifted (and strided) window per kernel position,
  concatenates them along the channels and multiplies by the flattened kernel.
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
    ValueError: dilations or groups other than 1, channels that do not fit, or
      a kernel larger than the padded input.
  """,
)

canonical_conv = _make_conv(
  "canonical_conv",
  conv_forms.differentiable(conv_forms.FORMS["canonical"]),
  """XLA's convolution, with gradients that stay fast in loops on a CPU.

  Takes the arguments of `shift_conv` and equals it. The gradients are
  convolutions with their axes in the one order for which XLA has fast code on
  a CPU; with strides, zeros are inserted into the outputs' gradient first.
  Reverse mode only; no tangents (`jax.jvp`).
  """,
)

adaptive_conv = _make_conv(
  "adaptive_conv",
  conv_forms.differentiable(conv_forms.FORMS["adaptive"]),
  """`canonical_conv` for one kernel, `shift_conv` for a kernel per client.

  Takes the arguments of `shift_conv` and equals it. A vmap over the inputs
  alone is folded into their batch axis. The windows of the shifted form are
  rebuilt for the backward pass instead of being kept. Reverse mode only; no
  tangents (`jax.jvp`). Within `jax.shard_map` it needs `check_vma=False`.
  """,
)

automatic_conv = _make_conv(
  "automatic_conv",
  conv_forms.differentiable(conv_forms.AUTOMATIC),
  """The fastest form for the platform that a program is lowered for.

  Takes the arguments of `shift_conv` and equals it. `conv_forms.fastest` says
  which form that is, by platform and type. Reverse mode only; no tangents
  (`jax.jvp`). Within `jax.shard_map` it needs `check_vma=False`.
  """,
)


def check_images(inputs: jax.typing.ArrayLike) -> jax.Array:
  """Returns inputs as an array; raises ValueError if they are not images."""
  images = jnp.asarray(inputs)
  if images.ndim != 4:
    raise ValueError(
      f"model: must be one for inputs of shape {images.shape[1:]}; networks "
      "with convolutions take images, [height, width, channels]"
    )
  return images


_CONVS = {
  "auto": automatic_conv,
  "adaptive": adaptive_conv,
  "canonical": canonical_conv,
  "native": lax.conv_general_dilated,
  "shift": shift_conv,
}


def resolve_conv(name: str) -> Callable[..., jax.Array]:
  """Returns the convolution of this name.

  Args:
    name: `"auto"`, the fastest for the platform that a program is lowered for
      and for the type; `"canonical"`, `"adaptive"`, `"shift"`, or `"native"`
      for `jax.lax.conv_general_dilated`. `experiments/benchmark.py` compares
      them.

  Returns:
    A function with the arguments of `jax.lax.conv_general_dilated`.

  Raises:
    ValueError: if there is no such convolution.
  """
  checks.choice("conv", name, tuple(_CONVS))
  return _CONVS[name]
