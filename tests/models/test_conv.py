import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from quped_jax.models import conv

_NHWC = ("NHWC", "HWIO", "NHWC")


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
def test_shift_conv_equals_native(size, window, strides, padding):
  inputs = _normal(0, 2, *size, 3)
  kernel = _normal(1, *window, 3, 4)
  run = functools.partial(_value_and_gradients, inputs=inputs, kernel=kernel)
  arguments = {
    "window_strides": strides,
    "padding": padding,
    "dimension_numbers": _NHWC,
  }
  _assert_close(
    run(functools.partial(conv.shift_conv, **arguments)),
    run(functools.partial(lax.conv_general_dilated, **arguments)),
  )


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
def test_shift_conv_layouts(numbers, inputs_shape, kernel_shape):
  inputs, kernel = _normal(0, *inputs_shape), _normal(1, *kernel_shape)
  arguments: dict[str, Any] = {
    "window_strides": (1,) * (inputs.ndim - 2),
    "padding": "SAME",
    "dimension_numbers": numbers,
  }
  _assert_close(
    jax.jit(functools.partial(conv.shift_conv, **arguments))(inputs, kernel),
    lax.conv_general_dilated(inputs, kernel, **arguments),
  )


def _map(function, inputs, kernels):
  return lax.map(lambda args: function(*args), (inputs, kernels))


def _scan(function, inputs, kernels):
  return lax.scan(
    lambda carry, args: (carry, function(*args)), 0, (inputs, kernels)
  )[1]


@pytest.mark.parametrize(
  "over_clients",
  [lambda f, *args: jax.vmap(f)(*args), _map, _scan],
  ids=["vmap", "map", "scan"],
)
def test_shift_conv_over_clients(over_clients):
  clients = 3
  inputs = _normal(0, clients, 2, 6, 6, 2)
  kernels = _normal(1, clients, 3, 3, 2, 4)
  one = functools.partial(
    conv.shift_conv,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=_NHWC,
  )
  native = functools.partial(
    lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=_NHWC,
  )

  def unrolled(inputs, kernels):
    return jnp.stack(
      [native(i, k) for i, k in zip(inputs, kernels, strict=True)]
    )

  _assert_close(
    _value_and_gradients(functools.partial(over_clients, one), inputs, kernels),
    _value_and_gradients(unrolled, inputs, kernels),
  )


def test_shift_conv_serves_flax_conv():
  def layer(function):
    return nn.Conv(
      4, (3, 3), strides=2, padding=1, conv_general_dilated=function
    )

  inputs = _normal(0, 2, 8, 8, 3)
  variables = layer(lax.conv_general_dilated).init(jax.random.key(1), inputs)
  shifted = layer(conv.shift_conv).init(jax.random.key(1), inputs)
  assert jax.tree.map(jnp.shape, shifted) == jax.tree.map(jnp.shape, variables)
  _assert_close(
    layer(conv.shift_conv).apply(variables, inputs),
    layer(lax.conv_general_dilated).apply(variables, inputs),
  )


def test_shift_conv_element_type():
  inputs = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
  kernel = jnp.ones((3, 3, 2, 5), jnp.bfloat16)
  run = functools.partial(
    conv.shift_conv, inputs, kernel, (1, 1), "SAME", dimension_numbers=_NHWC
  )
  assert run().dtype == jnp.bfloat16
  assert run(preferred_element_type=jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize(
  "options, message",
  [
    ({"rhs_dilation": (2, 1)}, r"rhs_dilation = \(2, 1\) is not supported"),
    ({"lhs_dilation": (1, 2)}, r"lhs_dilation = \(1, 2\) is not supported"),
    ({"feature_group_count": 2}, r"feature_group_count = \(2,\) is not"),
    ({"batch_group_count": 2}, r"batch_group_count = \(2,\) is not"),
    ({"rhs": jnp.ones((3, 3, 1, 4))}, "lhs has 2 channels; allowed is 1"),
    ({"rhs": jnp.ones((7, 3, 2, 4))}, r"window of \(7, 3\); allowed is at"),
  ],
)
def test_shift_conv_errors(options, message):
  arguments = {
    "lhs": jnp.ones((2, 6, 6, 2)),
    "rhs": jnp.ones((3, 3, 2, 4)),
    "window_strides": (1, 1),
    "padding": "VALID",
    "dimension_numbers": _NHWC,
  }
  with pytest.raises(ValueError, match=message):
    conv.shift_conv(**(arguments | options))


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool_equals_flax(size):
  inputs = _normal(0, 2, *size, 3)

  def native(inputs):
    return nn.max_pool(inputs, (2, 2), strides=(2, 2))

  weights = _normal(1, *native(inputs).shape)
  for pool in (conv.max_pool_2x2, jax.vmap(conv.max_pool_2x2)):
    _assert_close(pool(inputs), native(inputs))
    _assert_close(
      jax.grad(lambda x, pool=pool: (weights * pool(x)).sum())(inputs),
      jax.grad(lambda x: (weights * native(x)).sum())(inputs),
    )


def test_max_pool_shares_the_gradient_of_ties():
  inputs = jnp.array([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 2, 1)
  gradient = jax.grad(lambda x: conv.max_pool_2x2(x).sum())(inputs)
  np.testing.assert_allclose(
    gradient.reshape(2, 2), [[1 / 3, 0], [1 / 3, 1 / 3]]
  )


def test_max_pool_errors():
  with pytest.raises(ValueError, match="height 1 and width 4; allowed is at"):
    conv.max_pool_2x2(jnp.ones((2, 1, 4, 3)))


def test_resolve_conv():
  assert conv.resolve_conv("native") is lax.conv_general_dilated
  assert conv.resolve_conv("shift") is conv.shift_conv
  assert conv.resolve_conv("auto") is conv.shift_conv
  with pytest.raises(ValueError, match="conv = 'fft'; allowed are"):
    conv.resolve_conv("fft")
