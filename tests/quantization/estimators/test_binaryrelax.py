"""BinaryRelax between weights and levels."""

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax.quantization.estimators import binaryrelax
from tests.quantization.estimators.books import BOOK, U, nearest

relaxed = jax.jit(binaryrelax.relaxed)


def test_binaryrelax_goes_from_the_weights_to_their_levels():
  np.testing.assert_array_equal(relaxed(U, BOOK, 0.0), U)
  np.testing.assert_allclose(relaxed(U, BOOK, 1.0), nearest(U), atol=1e-6)
  r = 3.0
  want = (r * nearest(U) + U) / (1 + r)
  np.testing.assert_allclose(relaxed(U, BOOK, r / (1 + r)), want, atol=1e-6)


def test_binaryrelaxs_weight_grows_by_the_same_factor():
  annealing = qj.Annealing(
    anneal_start=0.2, anneal_end=0.6, relax_start=0.5, relax_growth=16.0
  )
  share = binaryrelax.share_of_levels(
    annealing, np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
  )
  r = 0.5 * np.array([1, 2, 4, 8])
  np.testing.assert_allclose(share[1:5], r / (1 + r), rtol=1e-5)
  np.testing.assert_array_equal(share[jnp.array([0, 5, 6])], [0, 1, 1])
  endless = qj.Annealing(relax_start=3e38, relax_growth=3e38)
  assert binaryrelax.share_of_levels(endless, 0.5) == 1
