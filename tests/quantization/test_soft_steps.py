import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization import (
  soft_steps,
)
from quped_jax.quantization.soft_quantizer import steepness
from tests.levels import (
  make_codebook,
  make_levels,
  many_weights,
)


@pytest.mark.slow
@pytest.mark.parametrize(
  "levels", [2, pytest.param(5, marks=pytest.mark.long), 16]
)
@pytest.mark.parametrize("bins", [0, 2184])
def test_a_table_of_all_steps_has_the_same_sums(levels, bins):
  x, cotangent = many_weights(make_levels("random", levels), 6_000)
  centers = jnp.asarray(make_levels("random", levels))
  slope = steepness(make_codebook(centers), 10.0)
  value = soft_steps.table_value(bins, x, centers, slope)
  gradients = soft_steps.table_gradients(
    bins, False, x, cotangent, centers, slope
  )
  exact = 1e-3 if bins else 1e-5
  gap = float(jnp.mean(jnp.diff(centers)))
  np.testing.assert_allclose(
    value, soft_steps.dense_value(x, centers, slope), atol=exact * gap
  )
  want = soft_steps.dense_gradients(0, x, cotangent, centers, slope)
  for got, full in zip(gradients, want, strict=True):
    size = np.max(np.abs(full))
    np.testing.assert_allclose(got, full, atol=exact * size)
