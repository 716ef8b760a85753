import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.models import pool


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def _normal(seed, *shape):
  # From numpy, which compiles nothing for a new shape.
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool_equals_flax(size):
  inputs = _normal(0, 2, *size, 3)

  def native(inputs):
    return nn.max_pool(inputs, (2, 2), strides=(2, 2))

  weights = _normal(1, *native(inputs).shape)
  for fn in (pool.max_pool_2x2, jax.vmap(pool.max_pool_2x2)):
    _assert_close(fn(inputs), native(inputs))
    _assert_close(
      jax.grad(lambda x, fn=fn: (weights * fn(x)).sum())(inputs),
      jax.grad(lambda x: (weights * native(x)).sum())(inputs),
    )


def test_max_pool_gives_the_gradient_of_ties_to_the_first():
  inputs = jnp.array([[0.0, 1.0], [1.0, 1.0]]).reshape(1, 2, 2, 1)
  gradient = jax.grad(lambda x: pool.max_pool_2x2(x).sum())(inputs)
  np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 1], [0, 0]])


def test_max_pool_errors():
  with pytest.raises(ValueError, match="model: must be .* got 1 x 4"):
    pool.max_pool_2x2(jnp.ones((2, 1, 4, 3)))
