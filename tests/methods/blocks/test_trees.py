import jax.numpy as jnp
import numpy as np

from quped_jax.methods.blocks import trees


def message(value):
  return {"w": jnp.full(3, value, jnp.float32), "b": jnp.float32(2 * value)}


def test_a_squared_distance_is_over_all_leaves():
  # Three entries of 3, and one of 6.
  assert trees.squared_distance(message(5.0), message(2.0)) == 3 * 9 + 36


def test_a_difference_is_new_minus_old():
  difference = trees.difference(message(5.0), message(2.0))
  np.testing.assert_array_equal(difference["w"], np.full(3, 3.0))
