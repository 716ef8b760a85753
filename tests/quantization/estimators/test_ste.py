"""Gradients that go straight through to the latent weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.estimators import binaryrelax, parq, ste
from tests.quantization.estimators.books import BOOK, U, nearest

RATES = qj.Rates(0.1, 0.01, 0.0)


def test_the_network_runs_at_the_nearest_levels():
  at = jax.jit(ste.make_ste("range").map)(U, BOOK, None, RATES)
  np.testing.assert_allclose(at, nearest(U), atol=1e-6)


@pytest.mark.parametrize("name", ["ste", "binaryrelax", "parq"])
def test_gradients_go_straight_to_the_latent_weights(name):
  annealing = qj.Annealing()
  made = {
    "ste": lambda: ste.make_ste("range"),
    "binaryrelax": lambda: binaryrelax.make_binaryrelax("range", annealing),
    "parq": lambda: parq.make_parq("range", annealing),
  }[name]()
  scale = jnp.cos(7 * U)

  def loss(u, centers):
    book = Codebook(centers, BOOK.levels)
    rates = RATES._replace(progress=0.4)
    return jnp.sum(scale * made.map(u, book, centers, rates))

  to_u, to_levels = jax.jit(jax.grad(loss, (0, 1)))(U, BOOK.centers)
  np.testing.assert_array_equal(to_u, scale)
  np.testing.assert_array_equal(to_levels, np.zeros(6))
