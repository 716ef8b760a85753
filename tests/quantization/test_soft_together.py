import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization import soft_steps, soft_together


def arguments(levels, shape=(300,)):
  x = jnp.linspace(-2.0, 2.0, 300).reshape(shape)
  centers = jnp.linspace(-1.0, 1.3, levels)
  return x, jnp.cos(5 * x), centers, jnp.float32(8.0)


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 9, 16])
def test_it_is_the_sum_over_all_steps(levels):
  x, cotangent, centers, slope = arguments(levels, (20, 15))
  chex.assert_trees_all_close(
    soft_together.value(x, centers, slope),
    soft_steps.dense_value(x, centers, slope),
    atol=1e-6,
  )
  chex.assert_trees_all_close(
    soft_together.gradients(x, cotangent, centers, slope),
    soft_steps.dense_gradients(0, x, cotangent, centers, slope),
    rtol=1e-5,
    atol=2e-5,
  )


@pytest.mark.parametrize("levels", [2, 16])
def test_gradients_are_those_of_autodiff(levels):
  x, cotangent, centers, slope = arguments(levels)

  def of_dense(x, centers):
    return jnp.vdot(cotangent, soft_steps.dense_value(x, centers, slope))

  want = jax.grad(of_dense, (0, 1))(x, centers)
  got = soft_together.gradients(x, cotangent, centers, slope)
  chex.assert_trees_all_close(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("levels", [2, 8, 9, 16])
def test_reductions_are_as_many_as_a_kernel_has_room_for(levels):
  text = str(jax.make_jaxpr(soft_together.gradients)(*arguments(levels)))
  assert 1 <= text.count(" reduce[") <= 8


def test_levels_that_coincide_give_finite_gradients():
  x, cotangent, _, _ = arguments(4)
  centers, slope = jnp.zeros(4), jnp.float32(1e9)
  for got in soft_together.gradients(x, cotangent, centers, slope):
    assert jnp.all(jnp.isfinite(got))


@pytest.mark.parametrize(("levels", "atol"), [(2, 0.2), (16, 3e-3)])
def test_sums_over_many_weights_keep_their_precision(levels, atol):
  """Of cotangents with a mean, whose sums over all weights are large."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=200_000)
  cotangent = rng.normal(0.01, 0.01, size=x.size)
  centers = np.linspace(-2.0, 2.0, levels)
  slope = 10.0 * (levels - 1) / 4
  given = x, cotangent, centers, np.float32(slope)
  given = [jnp.asarray(a, jnp.float32) for a in given]
  _, got = jax.jit(soft_together.gradients)(*given)
  with jax.enable_x64(True):
    _, want = soft_steps.dense_gradients(0, x, cotangent, centers, slope)
    want = np.asarray(want)
  # A gradient is about 1000 with 2 levels; with 16, up to 3 at inner ones.
  np.testing.assert_allclose(got, want, atol=atol)


def test_weights_of_half_the_bits_are_summed_in_float32():
  x, cotangent, centers, slope = arguments(16, (300,))
  many = jnp.tile(x, 100), jnp.tile(cotangent + 0.5, 100), centers, slope
  x, cotangent, centers, slope = (a.astype(jnp.bfloat16) for a in many)
  _, got = jax.jit(soft_together.gradients)(x, cotangent, centers, slope)
  assert got.dtype == jnp.bfloat16
  _, want = soft_steps.dense_gradients(0, x, cotangent, centers, slope)
  size = float(jnp.max(jnp.abs(want)))
  chex.assert_trees_all_close(
    got.astype(jnp.float32), want.astype(jnp.float32), atol=0.02 * size
  )
