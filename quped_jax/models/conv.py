"""Convolutions that stay fast when every client has its own kernel.

On CPU, XLA computes a convolution quickly only if its axes are in one order
(batch, spatial, features; spatial, in, out). It brings others into that order,
those of gradients among them, outside of compiled loops, but not inside: there
a gradient is 25 times as slow. `canonical_conv` writes the gradients in that
order itself, and is fast in a loop over clients and over their steps as well
as under vmap, where it becomes a grouped convolution.

On accelerators grouped convolutions are the weak point: there, kernels that
differ by client go through products of matrices (`shift_conv`).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# With at most so many channels, windows along one axis become channels first.
_THIN = 4


class _Geometry(NamedTuple):
  """What is static about a convolution with channels last.

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


def _normalize(
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
  """Checks the arguments and brings the channels last.

  Returns:
    The geometry, lhs as [batch, spatial..., in], rhs as [spatial..., in, out],
    and what brings [batch, spatial..., out] to the layout that was asked for.
  """
  for field, value in (
    ("lhs_dilation", lhs_dilation),
    ("rhs_dilation", rhs_dilation),
    ("feature_group_count", (feature_group_count,)),
    ("batch_group_count", (batch_group_count,)),
  ):
    if value is not None and any(entry != 1 for entry in value):
      raise ValueError(
        f"{field} = {tuple(value)} is not supported by {name}; allowed is "
        "1 (or use conv='native')"
      )
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  lhs = _channels_last(lhs, numbers.lhs_spec)
  rhs = jnp.moveaxis(_channels_last(rhs, numbers.rhs_spec), 0, -1)
  *window, in_features, _ = rhs.shape
  size = lhs.shape[1:-1]
  if lhs.shape[-1] != in_features:
    raise ValueError(
      f"lhs has {lhs.shape[-1]} channels; allowed is {in_features}, the number "
      f"that rhs has"
    )
  names = ("SAME", "SAME_LOWER", "VALID")
  if isinstance(padding, str) and padding not in names:
    raise ValueError(f"padding = {padding!r}; allowed are {names} or pairs")
  for field, value in (
    ("window_strides", window_strides),
    ("padding", padding),
  ):
    if not isinstance(value, str) and len(value) != len(size):
      raise ValueError(
        f"{field} = {tuple(value)}; allowed is one entry for each of "
        f"{len(size)} spatial axes"
      )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(size, window, window_strides, padding)
  geometry = _Geometry(
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
      f"rhs has a window of {tuple(window)}; allowed is at most {padded}, the "
      "size of the padded lhs"
    )
  batch_axis, feature_axis, *spatial_axes = numbers.out_spec
  order = (batch_axis, *spatial_axes, feature_axis)

  def restore(out):
    return out.transpose([order.index(axis) for axis in range(len(order))])

  return geometry, lhs, rhs, restore


def _shift(geometry: _Geometry, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
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


def _channels_last(array: jax.Array, spec: Sequence[int]) -> jax.Array:
  """Moves the axes (first, second, *spatial) to (first, *spatial, second)."""
  first, second, *spatial = spec
  return array.transpose(first, *spatial, second)


def _native(
  lhs: jax.Array,
  rhs: jax.Array,
  padding: Sequence[tuple[int, int]],
  geometry: _Geometry,
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


def _spread_out(geometry: _Geometry, cotangent: jax.Array) -> jax.Array:
  """The outputs' gradient with zeros where strides left positions out."""
  if all(stride == 1 for stride in geometry.strides):
    return cotangent
  edges = [(0, 0, stride - 1) for stride in geometry.strides]
  zero = jnp.zeros((), cotangent.dtype)
  return lax.pad(cotangent, zero, [(0, 0, 0), *edges, (0, 0, 0)])


def _rows(geometry, inputs):
  """Makes channels of the windows along the first spatial axis.

  With a few channels XLA's convolution has too little to multiply at a time.

  Returns:
    The geometry of what is left to do, along the other axes, and its inputs.
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
  """The inputs' gradient: a convolution with the kernel turned around."""
  cotangent = _spread_out(geometry, cotangent)
  axes = tuple(range(len(geometry.window)))
  turned = jnp.flip(kernel, axes).swapaxes(-1, -2)
  # It is of another type where `preferred_element_type` says so.
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
  shape = (cotangent.shape[0], *geometry.size, kernel.shape[-2])
  inputs = jax.ShapeDtypeStruct(shape, kernel.dtype)
  transpose = jax.linear_transpose(
    lambda x: _shift(geometry, x, kernel), inputs
  )
  return transpose(cotangent)[0]


def _shifted_kernel(geometry, inputs, cotangent):
  shape = (*geometry.window, inputs.shape[-1], cotangent.shape[-1])
  kernel = jax.ShapeDtypeStruct(shape, inputs.dtype)
  transpose = jax.linear_transpose(
    lambda k: _shift(geometry, inputs, k), kernel
  )
  return transpose(cotangent)[0]


class _Form(NamedTuple):
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
  """`single`, or `batched` under vmap where every client has its kernel.

  With `fold_first`, a map over the first operand alone joins its batch axis.
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


_CANONICAL = _Form(_canonical_outputs, _canonical_inputs, _canonical_kernel)
_SHIFTED = _Form(_shift, _shifted_inputs, _shifted_kernel)
_ADAPTIVE = _Form(
  _by_batching(_CANONICAL.outputs, _SHIFTED.outputs, True),
  _by_batching(_CANONICAL.inputs, _SHIFTED.inputs, True),
  _by_batching(_CANONICAL.kernel, _SHIFTED.kernel, False),
)


def _differentiable(form: _Form) -> Callable[..., jax.Array]:
  """The convolution with its transposes as gradients, of any order.

  A convolution is linear in either operand, and so are its two transposes:
  the gradients of each are the other two. Only the operands are kept for the
  backward pass, never the windows.
  """

  def bilinear(compute, first_grad, second_grad) -> Any:
    """Gradients take (cotangent, first, second)."""

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


def _make_conv(
  name: str, compute: Callable[..., jax.Array], doc: str
) -> Callable[..., jax.Array]:
  """`compute(geometry, lhs, rhs)` with the arguments that flax gives."""

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
    geometry, lhs, rhs, restore = _normalize(
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
  _shift,
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
  """,
)

canonical_conv = _make_conv(
  "canonical_conv",
  _differentiable(_CANONICAL),
  """XLA's convolution, with gradients that stay fast in loops on a CPU.

  Takes the arguments of `shift_conv` and equals it. The gradients are
  convolutions with their axes in the one order for which XLA has fast code on
  a CPU; strides put zeros into the outputs' gradient first. Reverse mode
  alone; no tangents (`jax.jvp`).
  """,
)

adaptive_conv = _make_conv(
  "adaptive_conv",
  _differentiable(_ADAPTIVE),
  """`canonical_conv` for one kernel, `shift_conv` for a kernel per client.

  Takes the arguments of `shift_conv` and equals it. A map over the inputs
  alone joins their batch axis. The windows of the shifted form are built again
  for the backward pass instead of being kept. Reverse mode alone; no tangents
  (`jax.jvp`). Within `jax.shard_map` it needs `check_vma=False`.
  """,
)


def check_images(inputs: jax.typing.ArrayLike) -> jax.Array:
  """Returns inputs as an array, or raises ValueError if they are no images."""
  images = jnp.asarray(inputs)
  if images.ndim != 4:
    raise ValueError(
      f"model: must be one for inputs of shape {images.shape[1:]}; networks "
      "with convolutions take images, [height, width, channels]"
    )
  return images


_CONVS = {
  "adaptive": adaptive_conv,
  "canonical": canonical_conv,
  "native": lax.conv_general_dilated,
  "shift": shift_conv,
}


def resolve_conv(name: str) -> Callable[..., jax.Array]:
  """Returns the convolution of this name.

  Args:
    name: `"canonical"`, `"adaptive"`, `"shift"`, `"native"` for
      `jax.lax.conv_general_dilated`, or `"auto"`: canonical on CPUs, adaptive
      elsewhere. `experiments/benchmark.py` compares them.

  Returns:
    A function with the arguments of `jax.lax.conv_general_dilated`.

  Raises:
    ValueError: if there is no such convolution.
  """
  if name == "auto":
    name = "canonical" if jax.default_backend() == "cpu" else "adaptive"
  if name not in _CONVS:
    raise ValueError(
      f"conv={name!r}: must be one of {', '.join(['auto', *_CONVS])}"
    )
  return _CONVS[name]
