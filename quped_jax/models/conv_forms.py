"""Forms of a convolution and of its two transposes, channels last.

All compute the same. Which one is fast depends on the platform, on the type and
on whether every client has a kernel of its own: `fastest` is the rule. For
which platform JAX lowers a program decides, not on which machine it is traced.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from quped_jax.models.conv_geometry import Geometry

# Up to this many channels, windows along one axis are first made channels.
_THIN = 4

# The rule by platform and bits of a number, with what it was measured by:
# - Two CPU cores, float32, a step of SGD on CNN1 within compiled loops over
#   clients and steps: canonical 15 ms, shift 24, native 384
#   (experiments/results/conv_cpu2.json). In bfloat16 the canonical step takes
#   1.07 times as long (precision_cpu2.json).
# - An H200, the second convolution of CNN1, value and gradients, per client of
#   50 under vmap that have kernels of their own: float32 adaptive 0.053 ms,
#   native 0.055; bfloat16 native 0.031, adaptive 0.040 (the products alone
#   would take 0.029 and 0.014).
# No TPU was ever tried: it gets what a GPU does.
_FASTEST = {
  ("cpu", 16): "canonical",
  ("cpu", 32): "canonical",
  ("accelerator", 16): "native",
  ("accelerator", 32): "adaptive",
}


def fastest(platform: str, bits: int) -> str:
  """The fastest of the FORMS, as far as measured.

  Args:
    platform: "cpu" or "accelerator".
    bits: of a number of the operands; more than 32 count as 32.
  """
  return _FASTEST[platform, min(bits, 32)]


def shift(geometry: Geometry, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
  """The product of the shifted windows with the kernel, channels last."""
  no_padding = (0, 0, 0)
  lhs = lax.pad(
    lhs,
    jnp.zeros((), lhs.dtype),
    [
      no_padding,
      *((low, high, 0) for low, high in geometry.padding),
      no_padding,
    ],
  )
  spatial = geometry.out_size
  shifted = [
    lax.slice(
      lhs,
      (0, *offsets, 0),
      (
        lhs.shape[0],
        *(
          offset + (size - 1) * stride + 1
          for offset, size, stride in zip(
            offsets, spatial, geometry.strides, strict=True
          )
        ),
        lhs.shape[-1],
      ),
      (1, *geometry.strides, 1),
    )
    for offsets in itertools.product(*map(range, geometry.window))
  ]
  windows = jnp.concatenate(shifted, axis=-1)
  out = lax.dot_general(
    windows.reshape(-1, windows.shape[-1]),
    rhs.reshape(-1, rhs.shape[-1]),
    (((1,), (0,)), ((), ())),
    precision=geometry.precision,
    preferred_element_type=geometry.element_type,
  )
  return out.reshape(lhs.shape[0], *spatial, rhs.shape[-1])


def _native(
  lhs: jax.Array,
  rhs: jax.Array,
  padding: Sequence[tuple[int, int]],
  geometry: Geometry,
  strides: Sequence[int] | None = None,
) -> jax.Array:
  """XLA's convolution with its axes in the order that CPUs need."""
  spatial = "DHW"[-len(geometry.window) :]
  return lax.conv_general_dilated(
    lhs,
    rhs,
    strides or (1,) * len(geometry.window),
    padding,
    dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    precision=geometry.precision,
    preferred_element_type=geometry.element_type,
  )


def _spread_out(geometry: Geometry, cotangent: jax.Array) -> jax.Array:
  """The outputs' gradient with zeros at the positions that strides skipped."""
  if all(stride == 1 for stride in geometry.strides):
    return cotangent
  edges = [(0, 0, stride - 1) for stride in geometry.strides]
  zero = jnp.zeros((), cotangent.dtype)
  return lax.pad(cotangent, zero, [(0, 0, 0), *edges, (0, 0, 0)])


def _rows(geometry, inputs):
  """Turns the windows along the first spatial axis into channels.

  With few channels, XLA's convolution has too little to multiply at a time.

  Returns:
    The geometry of the remaining convolution, along the other axes, and its
    inputs.
  """
  no_padding = (0, 0, 0)
  others = [no_padding] * (inputs.ndim - 2)
  padded = lax.pad(
    inputs,
    jnp.zeros((), inputs.dtype),
    [no_padding, (*geometry.padding[0], 0), *others],
  )
  extent, stride = geometry.window[0], geometry.strides[0]
  reach = (geometry.out_size[0] - 1) * stride + 1
  rows = [
    lax.slice_in_dim(padded, i, i + reach, stride, axis=1)
    for i in range(extent)
  ]
  left = geometry._replace(
    size=(geometry.out_size[0], *geometry.size[1:]),
    window=(1, *geometry.window[1:]),
    strides=(1, *geometry.strides[1:]),
    padding=((0, 0), *geometry.padding[1:]),
  )
  return left, jnp.concatenate(rows, axis=-1)


def _is_thin(geometry, inputs) -> bool:
  return inputs.shape[-1] <= _THIN and geometry.window[0] > 1


def _canonical_outputs(geometry, inputs, kernel):
  if _is_thin(geometry, inputs):
    geometry, inputs = _rows(geometry, inputs)
    kernel = jnp.moveaxis(kernel, 0, -3)
    shape = (1, *kernel.shape[:-3], -1, kernel.shape[-1])
    kernel = kernel.reshape(shape)
  return _native(inputs, kernel, geometry.padding, geometry, geometry.strides)


def _canonical_inputs(geometry, cotangent, kernel):
  """The inputs' gradient: a convolution with the flipped kernel."""
  cotangent = _spread_out(geometry, cotangent)
  axes = tuple(range(len(geometry.window)))
  turned = jnp.flip(kernel, axes).swapaxes(-1, -2)
  # It has another type if `preferred_element_type` asks for one.
  cotangent = cotangent.astype(kernel.dtype)
  padding = []
  for size, spread, extent, (low, _) in zip(
    geometry.size,
    cotangent.shape[1:-1],
    geometry.window,
    geometry.padding,
    strict=True,
  ):
    before = extent - 1 - low
    padding.append((before, size + extent - 1 - spread - before))
  return _native(cotangent, turned, padding, geometry)


def _canonical_kernel(geometry, inputs, cotangent):
  """The kernel's gradient: images as channels, the gradient as kernel."""
  if _is_thin(geometry, inputs):
    channels, rows = inputs.shape[-1], geometry.window[0]
    kernel = _canonical_kernel(*_rows(geometry, inputs), cotangent)
    shape = (*kernel.shape[1:-2], rows, channels, kernel.shape[-1])
    return jnp.moveaxis(kernel.reshape(shape), -3, 0)
  cotangent = _spread_out(geometry, cotangent)
  padding = [
    (low, extent - 1 + spread - size - low)
    for size, spread, extent, (low, _) in zip(
      geometry.size,
      cotangent.shape[1:-1],
      geometry.window,
      geometry.padding,
      strict=True,
    )
  ]
  images = inputs.swapaxes(0, -1)
  cotangent = cotangent.astype(inputs.dtype)
  kernel = _native(images, jnp.moveaxis(cotangent, 0, -2), padding, geometry)
  return jnp.moveaxis(kernel, 0, -2)


def _shifted_inputs(geometry, cotangent, kernel):
  return _inputs_by_transposing(shift, geometry, cotangent, kernel)


def _shifted_kernel(geometry, inputs, cotangent):
  return _kernel_by_transposing(shift, geometry, inputs, cotangent)


def _native_outputs(geometry, inputs, kernel):
  return _native(inputs, kernel, geometry.padding, geometry, geometry.strides)


def _native_inputs(geometry, cotangent, kernel):
  # A convolution takes operands of one type.
  geometry, cotangent = _of_one_type(geometry, cotangent, kernel)
  return _inputs_by_transposing(_native_outputs, geometry, cotangent, kernel)


def _native_kernel(geometry, inputs, cotangent):
  geometry, cotangent = _of_one_type(geometry, cotangent, inputs)
  return _kernel_by_transposing(_native_outputs, geometry, inputs, cotangent)


def _of_one_type(geometry, cotangent, other):
  return geometry._replace(element_type=None), cotangent.astype(other.dtype)


def _inputs_by_transposing(outputs, geometry, cotangent, kernel):
  shape = (cotangent.shape[0], *geometry.size, kernel.shape[-2])
  inputs = jax.ShapeDtypeStruct(shape, kernel.dtype)
  transpose = jax.linear_transpose(
    lambda x: outputs(geometry, x, kernel), inputs
  )
  return transpose(cotangent)[0]


def _kernel_by_transposing(outputs, geometry, inputs, cotangent):
  shape = (*geometry.window, inputs.shape[-1], cotangent.shape[-1])
  kernel = jax.ShapeDtypeStruct(shape, inputs.dtype)
  transpose = jax.linear_transpose(
    lambda k: outputs(geometry, inputs, k), kernel
  )
  return transpose(cotangent)[0]


class Form(NamedTuple):
  """A way to compute a convolution and its two transposes, channels last.

  Attributes:
    outputs: `(geometry, inputs, kernel) -> outputs`.
    inputs: `(geometry, gradient of outputs, kernel) -> gradient of inputs`.
    kernel: `(geometry, inputs, gradient of outputs) -> gradient of kernel`.
  """

  outputs: Callable[..., jax.Array]
  inputs: Callable[..., jax.Array]
  kernel: Callable[..., jax.Array]


def _by_batching(single, batched, fold_first: bool):
  """`single`, or `batched` under vmap if every client has its own kernel.

  With `fold_first`, a vmap over the first operand alone is folded into its
  batch axis.
  """

  def run(geometry, first, second):
    @jax.custom_batching.custom_vmap
    def op(first, second):
      return single(geometry, first, second)

    @op.def_vmap
    def rule(size, is_mapped, first, second):
      if fold_first and not is_mapped[1]:
        folded = op(first.reshape(-1, *first.shape[2:]), second)
        return folded.reshape(size, -1, *folded.shape[1:]), True
      axes = tuple(0 if mapped else None for mapped in is_mapped)
      return jax.vmap(functools.partial(batched, geometry), axes)(
        first, second
      ), True

    return op(first, second)

  return run


def _by_platform(function):
  """One of the forms' functions: for each platform, that of the fastest.

  Args:
    function: the name of one of Form's fields.
  """

  @functools.partial(jax.jit, static_argnums=0)
  def run(geometry, first, second):
    bits = 8 * min(first.dtype.itemsize, second.dtype.itemsize)
    on_cpu, elsewhere = (
      functools.partial(
        getattr(FORMS[fastest(platform, bits)], function), geometry
      )
      for platform in ("cpu", "accelerator")
    )
    return lax.platform_dependent(first, second, cpu=on_cpu, default=elsewhere)

  return run


FORMS = {
  "canonical": Form(_canonical_outputs, _canonical_inputs, _canonical_kernel),
  "native": Form(_native_outputs, _native_inputs, _native_kernel),
  "shift": Form(shift, _shifted_inputs, _shifted_kernel),
}
# What is fast for one kernel, and for kernels that differ between clients.
FORMS["adaptive"] = Form(
  _by_batching(FORMS["canonical"].outputs, FORMS["shift"].outputs, True),
  _by_batching(FORMS["canonical"].inputs, FORMS["shift"].inputs, True),
  _by_batching(FORMS["canonical"].kernel, FORMS["shift"].kernel, False),
)
AUTOMATIC = Form(*map(_by_platform, Form._fields))


def differentiable(form: Form) -> Callable[..., jax.Array]:
  """The convolution with its transposes as gradients, of any order.

  A convolution is linear in each operand, and so are its two transposes:
  the gradients of each are the other two. Only the operands are kept for the
  backward pass, never the windows.
  """

  def bilinear(compute, first_grad, second_grad) -> Any:
    """`first_grad` and `second_grad` take (cotangent, first, second)."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def op(geometry, first, second):
      return compute(geometry, first, second)

    def forward(geometry, first, second):
      return op(geometry, first, second), (first, second)

    def backward(geometry, operands, cotangent):
      first, second = operands
      return (
        first_grad(geometry, cotangent, *operands).astype(first.dtype),
        second_grad(geometry, cotangent, *operands).astype(second.dtype),
      )

    op.defvjp(forward, backward)
    return op

  outputs = bilinear(
    form.outputs,
    lambda geometry, g, x, k: inputs(geometry, g, k),
    lambda geometry, g, x, k: kernel(geometry, x, g),
  )
  inputs = bilinear(
    form.inputs,
    lambda geometry, x, g, k: outputs(geometry, x, k),
    lambda geometry, x, g, k: kernel(geometry, x, g),
  )
  kernel = bilinear(
    form.kernel,
    lambda geometry, k, x, g: inputs(geometry, g, k),
    lambda geometry, k, x, g: outputs(geometry, x, k),
  )
  return outputs
