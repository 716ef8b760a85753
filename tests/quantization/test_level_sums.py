import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization import level_sums


def weights_of(levels, size=500):
  rng = np.random.default_rng(levels)
  index = rng.integers(0, levels, size).astype(np.int32)
  return rng.normal(size=size).astype(np.float32), index


@pytest.mark.parametrize("levels", [2, 4, 5, 16, 17, 256])
def test_entries_are_those_of_a_table(levels):
  table = np.random.default_rng(0).normal(size=levels).astype(np.float32)
  _, index = weights_of(levels)
  found = level_sums.entries(jnp.asarray(table), jnp.asarray(index))
  np.testing.assert_array_equal(found, table[index])


@pytest.mark.parametrize("levels", [2, 4, 5, 16, 17, 256])
def test_the_gradient_of_an_entry_sums_over_its_weights(levels):
  values, index = weights_of(levels)

  def loss(table):
    return jnp.vdot(values, level_sums.entries(table, jnp.asarray(index)))

  gradient = jax.grad(loss)(jnp.zeros(levels))
  want = np.bincount(index, values, levels)
  np.testing.assert_allclose(gradient, want, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 4, 5, 256])
def test_sums_by_level_are_those_of_a_loop(levels):
  values, index = weights_of(levels)
  shape = (20, 25)
  sums = level_sums.sum_by_level(
    [jnp.reshape(v, shape) for v in (values, values**2)],
    jnp.reshape(index, shape),
    levels,
  )
  want = [np.bincount(index, v, levels) for v in (values, values**2)]
  np.testing.assert_allclose(sums, want, rtol=1e-5, atol=1e-4)


def test_counts_are_exact_and_leave_out_what_lies_outside():
  index = jnp.array([0, 2, 2, 5, 6, 2**30], jnp.int32)
  counts = level_sums.count_by_bin(index, 6)
  np.testing.assert_array_equal(counts, [1, 0, 2, 0, 0, 1])
  assert counts.dtype == jnp.int32


def test_sums_by_bin_keep_the_type_of_their_values():
  values, index = weights_of(7)
  sums = level_sums.sum_by_bin(
    jnp.asarray(values, jnp.bfloat16), jnp.asarray(index), 7
  )
  assert sums.dtype == jnp.bfloat16
