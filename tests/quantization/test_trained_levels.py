"""Numbers of codebooks that are trained."""

import jax.numpy as jnp
import numpy as np

from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.trained_levels import CENTERS, STEP_SIZE

BOOKS = {
  "one": Codebook(jnp.float32([-2.0, 2.0, 2.0, 2.0]), jnp.int32(2)),
  "two": Codebook(jnp.float32([-1.0, -0.5, 0.0, 0.5]), jnp.int32(4)),
  "full": Codebook(jnp.zeros(4), jnp.int32(0)),
}


def test_levels_are_multiples_of_the_step_size():
  steps = STEP_SIZE.get(BOOKS)
  assert (steps["one"], steps["two"]) == (2.0, 0.5)
  again = STEP_SIZE.put(BOOKS, steps)
  for name, book in BOOKS.items():
    np.testing.assert_array_equal(again[name].centers, book.centers)
  tripled = STEP_SIZE.put(BOOKS, {name: 3 * s for name, s in steps.items()})
  np.testing.assert_array_equal(tripled["two"].centers, [-3, -1.5, 0, 1.5])


def test_a_step_size_stays_positive():
  reversed_ = STEP_SIZE.put(BOOKS, {k: jnp.float32(-0.1) for k in BOOKS})
  settled = STEP_SIZE.settle(reversed_["two"])
  assert np.all(np.diff(settled.centers) > 0)
  np.testing.assert_allclose(settled.centers[0], -2e-8, rtol=1e-5)


def test_channels_have_their_own_step_size():
  books = Codebook(
    jnp.stack([BOOKS["one"].centers, BOOKS["two"].centers]), jnp.int32([2, 4])
  )
  steps = STEP_SIZE.get({"x": books})
  np.testing.assert_array_equal(steps["x"], [2.0, 0.5])
  again = STEP_SIZE.put({"x": books}, steps)
  np.testing.assert_array_equal(again["x"].centers, books.centers)


def test_single_levels_are_put_as_they_are_and_then_in_order():
  crossed = jnp.float32([1.0, -1.0, 0.0, 2.0])
  book = CENTERS.put(BOOKS, {**CENTERS.get(BOOKS), "two": crossed})["two"]
  np.testing.assert_array_equal(book.centers, crossed)
  np.testing.assert_array_equal(CENTERS.settle(book).centers, [-1, 0, 1, 2])
