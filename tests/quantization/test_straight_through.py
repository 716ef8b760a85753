import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.quantization.straight_through import straight_through


def test_the_value_has_the_derivative_of_the_carrier():
  x = jnp.array([0.3, -2.0])

  def fn(x):
    return jnp.sum(straight_through(3 * x, jnp.round(x)) ** 2)

  assert fn(x) == 4.0
  np.testing.assert_allclose(jax.grad(fn)(x), 2 * jnp.round(x) * 3)
  np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(fn)))(x), [0.0, -12.0])
