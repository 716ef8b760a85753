import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from quped_jax.models import conv, conv_forms

_NHWC = ("NHWC", "HWIO", "NHWC")
_CONVS = ("shift", "canonical", "adaptive")
# The form that is native, with the gradients that it has on accelerators.
_NATIVE = conv._make_conv(
  "native_conv", conv_forms.differentiable(conv_forms.FORMS["native"]), ""
)


def _value_and_gradients(function, inputs, kernel):
  """Returns the output and its pullback of a fixed random cotangent."""

  @jax.jit
  def run(inputs, kernel):
    outputs, pullback = jax.vjp(function, inputs, kernel)
    return outputs, pullback(_normal(9, *outputs.shape))

  return run(inputs, kernel)


def _assert_close(actual, expected):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5),
    actual,
    expected,
  )


def _normal(seed, *shape):
  # From numpy, which compiles nothing for a new shape.
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("name", _CONVS)
@pytest.mark.parametrize(
  "channels", [3, pytest.param(5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "size, window, strides, padding",
  [
    ((8, 8), (5, 5), (1, 1), "SAME"),
    ((8, 7), (3, 2), (1, 1), "VALID"),
    ((7, 9), (3, 3), (2, 2), "SAME"),
    ((8, 8), (3, 3), (2, 2), "SAME"),
    ((8, 8), (3, 3), (2, 2), "SAME_LOWER"),
    ((8, 6), (2, 3), (3, 1), ((-1, 2), (0, 1))),
    ((6, 6), (1, 1), (2, 2), "VALID"),
    ((3, 3), (3, 3), (1, 1), "VALID"),
  ],
)
def test_conv_equals_native(name, channels, size, window, strides, padding):
  inputs = _normal(0, 2, *size, channels)
  kernel = _normal(1, *window, channels, 4)
  run = functools.partial(_value_and_gradients, inputs=inputs, kernel=kernel)
  arguments = {
    "window_strides": strides,
    "padding": padding,
    "dimension_numbers": _NHWC,
  }
  _assert_close(
    run(functools.partial(conv.resolve_conv(name), **arguments)),
    run(functools.partial(lax.conv_general_dilated, **arguments)),
  )


@pytest.mark.parametrize("name", _CONVS)
@pytest.mark.parametrize(
  "numbers, inputs_shape, kernel_shape",
  [
    (None, (2, 3, 6, 7), (4, 3, 3, 2)),
    (("NCHW", "OIHW", "NHWC"), (2, 3, 6, 7), (4, 3, 3, 2)),
    (("NHWC", "HWIO", "NCHW"), (2, 6, 7, 3), (3, 2, 3, 4)),
    (("CWNH", "IWOH", "HNCW"), (3, 7, 2, 6), (3, 2, 4, 3)),
    (("NWC", "WIO", "NWC"), (2, 9, 3), (3, 3, 4)),
  ],
)
def test_conv_layouts(name, numbers, inputs_shape, kernel_shape):
  inputs, kernel = _normal(0, *inputs_shape), _normal(1, *kernel_shape)
  arguments: dict[str, Any] = {
    "window_strides": (1,) * (inputs.ndim - 2),
    "padding": "SAME",
    "dimension_numbers": numbers,
  }
  compute = functools.partial(conv.resolve_conv(name), **arguments)
  _assert_close(
    jax.jit(compute)(inputs, kernel),
    lax.conv_general_dilated(inputs, kernel, **arguments),
  )


def _map(function, inputs, kernels):
  return lax.map(lambda args: function(*args), (inputs, kernels))


def _scan(function, inputs, kernels):
  return lax.scan(
    lambda carry, args: (carry, function(*args)), 0, (inputs, kernels)
  )[1]


def _vmap(function, inputs, kernels):
  return jax.vmap(function)(inputs, kernels)


def _shard_map(function, inputs, kernels):
  mesh = jax.sharding.Mesh(jax.devices()[: len(inputs)], ("clients",))
  clients = jax.sharding.PartitionSpec("clients")
  return jax.shard_map(
    lambda *args: _vmap(function, *args),
    mesh=mesh,
    in_specs=clients,
    out_specs=clients,
    check_vma=False,  # As in the engine; custom_vmap does not track it.
  )(inputs, kernels)


def _arguments(name):
  return functools.partial(
    conv.resolve_conv(name),
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=_NHWC,
  )


@pytest.mark.parametrize("name", _CONVS)
@pytest.mark.parametrize("over_clients", [_vmap, _map, _scan, _shard_map])
def test_conv_over_clients(over_clients, name):
  clients = 3
  inputs = _normal(0, clients, 2, 6, 6, 2)
  kernels = _normal(1, clients, 3, 3, 2, 4)
  native = _arguments("native")

  def unrolled(inputs, kernels):
    return jnp.stack(
      [native(i, k) for i, k in zip(inputs, kernels, strict=True)]
    )

  one = _arguments(name)
  _assert_close(
    _value_and_gradients(functools.partial(over_clients, one), inputs, kernels),
    _value_and_gradients(unrolled, inputs, kernels),
  )


@pytest.mark.parametrize("name", _CONVS)
@pytest.mark.parametrize("mapped", [(0, None), (None, 0)])
def test_conv_with_one_operand_mapped(name, mapped):
  inputs, kernel = _normal(0, 3, 2, 5, 5, 2), _normal(1, 3, 3, 3, 2, 4)
  operands = (
    inputs if mapped[0] == 0 else inputs[0],
    kernel if mapped[1] == 0 else kernel[0],
  )
  # Nested maps, of which each maps one operand, meet both rules.
  nested = (
    lambda f: jax.vmap(f, mapped),
    lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None)),
  )
  for over, args in zip(nested, (operands, (inputs, kernel)), strict=True):
    _assert_close(
      _value_and_gradients(over(_arguments(name)), *args),
      _value_and_gradients(over(_arguments("native")), *args),
    )


def test_adaptive_conv_shifts_only_where_kernels_differ():
  inputs, kernels = _normal(0, 3, 2, 5, 5, 2), _normal(1, 3, 3, 3, 2, 4)
  one = _arguments("adaptive")

  def lowered(function, *args):
    return jax.jit(function).lower(*args).as_text()

  assert "convolution" in lowered(one, inputs[0], kernels[0])
  assert "convolution" in lowered(jax.vmap(one, (0, None)), inputs, kernels[0])
  assert "convolution" not in lowered(jax.vmap(one), inputs, kernels)


@pytest.mark.parametrize("name", ["canonical", "adaptive", "auto"])
def test_second_derivatives_equal_native(name):
  inputs, kernel = _normal(0, 2, 5, 5, 2), _normal(1, 3, 3, 2, 3) / 9

  def penalty(compute, inputs, kernel):
    def loss(x, k):
      return jnp.sum(jnp.tanh(compute(x, k)))

    grads = jax.grad(loss, argnums=(0, 1))(inputs, kernel)
    return sum(jnp.sum(jnp.sin(g)) for g in grads)

  def second(name):
    compute = functools.partial(penalty, _arguments(name))
    return jax.jit(jax.grad(compute, argnums=(0, 1)))(inputs, kernel)

  _assert_close(second(name), second("native"))


@pytest.mark.parametrize("features", [2, 5])
def test_canonical_gradients_are_in_the_order_that_is_fast(features):
  # XLA on CPU has fast code inside loops for this order alone; in another
  # one, a training step was measured to take 25 times as long.
  inputs = _normal(0, 2, 6, 6, features)
  kernel = _normal(1, 3, 3, features, 4)

  def step(kernel, _):
    def loss(k, x):
      return jnp.sum(_arguments("canonical")(x, k) ** 2)

    grads = jax.grad(loss, argnums=(0, 1))(kernel, inputs)
    return kernel - grads[0] + jnp.sum(grads[1]), None

  run = jax.jit(lambda k: lax.scan(step, k, None, length=3)[0])
  text = str(run.lower(kernel).compile().as_text())
  orders = re.findall(r"dim_labels=(\S+?),? ", text.replace("\n", " "))
  assert orders and set(orders) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("name", _CONVS)
def test_conv_serves_flax_conv(name):
  def layer(function):
    return nn.Conv(
      4, (3, 3), strides=2, padding=1, conv_general_dilated=function
    )

  inputs = _normal(0, 2, 8, 8, 3)
  variables = layer(lax.conv_general_dilated).init(jax.random.key(1), inputs)
  ours = layer(conv.resolve_conv(name))
  made = ours.init(jax.random.key(1), inputs)
  assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)
  _assert_close(
    ours.apply(variables, inputs),
    layer(lax.conv_general_dilated).apply(variables, inputs),
  )


@pytest.mark.parametrize("name", _CONVS)
def test_conv_element_type(name):
  inputs = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
  kernel = jnp.ones((3, 3, 2, 5), jnp.bfloat16)
  run = functools.partial(_arguments(name), inputs, kernel)
  assert run().dtype == jnp.bfloat16

  def loss(x, k):
    return jnp.sum(_arguments(name)(x, k, preferred_element_type=jnp.float32))

  grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(inputs, kernel)
  assert [g.dtype for g in grads] == [jnp.bfloat16] * 2
  expected = jax.grad(
    lambda x, k: jnp.sum(_arguments("native")(x, k)), argnums=(0, 1)
  )(inputs.astype(jnp.float32), kernel.astype(jnp.float32))
  _assert_close([g.astype(jnp.float32) for g in grads], list(expected))
  assert run(preferred_element_type=jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize(
  "options, message",
  [
    ({"rhs_dilation": (2, 1)}, r"rhs_dilation=\(2, 1\): must be 1 with"),
    ({"lhs_dilation": (1, 2)}, r"lhs_dilation=\(1, 2\): must be 1 with"),
    ({"feature_group_count": 2}, r"feature_group_count=\(2,\): must be 1"),
    ({"padding": "FULL"}, "padding='FULL': must be one of"),
    ({"padding": ((1, 1),)}, "padding=.*one entry for each of 2"),
    ({"window_strides": (1,)}, "window_strides=.*one entry for each of 2"),
    ({"batch_group_count": 2}, r"batch_group_count=\(2,\): must be 1"),
    (
      {"rhs": jnp.ones((3, 3, 1, 4))},
      "lhs: must have 1 channels, .*got 2",
    ),
    ({"rhs": jnp.ones((7, 3, 2, 4))}, r"a window of at most .* got \(7, 3\)"),
  ],
)
@pytest.mark.parametrize("name", _CONVS)
def test_conv_errors(name, options, message):
  arguments = {
    "lhs": jnp.ones((2, 6, 6, 2)),
    "rhs": jnp.ones((3, 3, 2, 4)),
    "window_strides": (1, 1),
    "padding": "VALID",
    "dimension_numbers": _NHWC,
  }
  with pytest.raises(ValueError, match=message):
    conv.resolve_conv(name)(**(arguments | options))


@pytest.mark.parametrize("vmapped", [False, True])
@pytest.mark.parametrize("strides, padding", [(1, "SAME"), (2, "VALID")])
def test_native_form_equals_native(strides, padding, vmapped):
  inputs, kernel = _normal(0, 3, 2, 7, 6, 2), _normal(1, 3, 3, 2, 2, 4)
  arguments = {
    "window_strides": (strides,) * 2,
    "padding": padding,
    "dimension_numbers": _NHWC,
  }
  compute, expected = (
    functools.partial(f, **arguments)
    for f in (_NATIVE, lax.conv_general_dilated)
  )
  if vmapped:
    compute, expected = jax.vmap(compute), jax.vmap(expected)
  else:
    inputs, kernel = inputs[0], kernel[0]
  _assert_close(
    _value_and_gradients(compute, inputs, kernel),
    _value_and_gradients(expected, inputs, kernel),
  )


def test_native_form_has_gradients_of_the_type_of_its_operands():
  inputs = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
  kernel = jnp.ones((3, 3, 2, 5), jnp.bfloat16)

  def loss(x, k):
    out = _NATIVE(
      x,
      k,
      (1, 1),
      "SAME",
      dimension_numbers=_NHWC,
      preferred_element_type=jnp.float32,
    )
    assert out.dtype == jnp.float32
    return jnp.sum(out)

  grads = jax.grad(loss, argnums=(0, 1))(inputs, kernel)
  assert [g.dtype for g in grads] == [jnp.bfloat16] * 2


def test_every_platform_and_type_has_a_form():
  for platform in ("cpu", "accelerator"):
    for bits in (16, 32, 64):
      assert conv_forms.fastest(platform, bits) in conv_forms.FORMS


@functools.cache
def _lowered_over_clients(dtype):
  """A step of clients with kernels of their own, lowered from one trace."""

  def loss(x, k):
    return jnp.sum(_arguments("auto")(x, k).astype(jnp.float32) ** 2)

  gradients = jax.vmap(jax.grad(loss, argnums=(0, 1)))
  traced = jax.jit(gradients).trace(
    jax.ShapeDtypeStruct((3, 2, 6, 6, 5), dtype),
    jax.ShapeDtypeStruct((3, 3, 3, 5, 4), dtype),
  )
  return {
    platform: traced.lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cpu", "cuda", "tpu")
  }


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_auto_takes_the_form_of_the_platform_it_is_lowered_for(dtype, platform):
  texts = _lowered_over_clients(dtype)
  assert texts["cpu"].count("stablehlo.convolution") == 3
  # As in the table: products, or convolutions with a group for each client.
  grouped = texts[platform].count("stablehlo.convolution")
  assert grouped == (0 if dtype == "float32" else 3)
  products = texts[platform].count("stablehlo.dot_general")
  assert products == (3 if dtype == "float32" else 0)


@pytest.mark.parametrize("over_clients", [_vmap, _map, _shard_map])
def test_auto_is_canonical_on_a_cpu_bit_for_bit(over_clients):
  inputs, kernels = _normal(0, 3, 2, 6, 6, 2), _normal(1, 3, 3, 3, 2, 4)
  automatic, canonical = (
    _value_and_gradients(
      functools.partial(over_clients, _arguments(name)), inputs, kernels
    )
    for name in ("auto", "canonical")
  )
  jax.tree.map(np.testing.assert_array_equal, automatic, canonical)


def test_resolve_conv():
  assert conv.resolve_conv("native") is lax.conv_general_dilated
  assert conv.resolve_conv("shift") is conv.shift_conv
  assert conv.resolve_conv("auto") is conv.automatic_conv
  with pytest.raises(ValueError, match="conv='fft': must be one of auto"):
    conv.resolve_conv("fft")
