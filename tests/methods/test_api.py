import jax.numpy as jnp
import numpy as np

from quped_jax.methods import api


def test_the_sum_is_weighted_and_keeps_types():
  low = {"w": jnp.full(3, 1.5, jnp.bfloat16)}
  result = api.weighted_sum(None, low, 4, None, "a")
  assert result.weight == 4.0 and result.weight.dtype == jnp.float32
  assert result.total["w"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(result.total["w"], float), [6.0] * 3)
