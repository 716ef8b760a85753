"""LSQ's gradients, weight by weight."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.estimators import lsq
from tests.quantization.estimators.books import U


def lsq_book(step, bits):
  half = 2 ** (bits - 1)
  grid = np.array([-1, 1]) if bits == 1 else np.arange(-half, half)
  return Codebook(jnp.float32(step * grid), jnp.int32(2**bits))


def lsq_by_hand(u, step, bits, cotangent):
  """m, and what reaches u and s, weight by weight."""
  half = 2 ** (bits - 1)
  low, high = (-1, 1) if bits == 1 else (-half, half - 1)
  value, to_u, to_s = [], [], 0.0
  for x, g in zip(u, cotangent, strict=True):
    v = x / step
    if bits == 1:
      rounded = 1 if v > 0 else -1
    else:
      rounded = round(min(max(v, low), high))
    value.append(step * rounded)
    inside = low < v < high
    to_u.append(g if inside else 0.0)
    beyond = high if v >= high else low
    to_s += g * (rounded - v if inside else beyond)
  return value, to_u, to_s / math.sqrt(len(u) * max(half - 1, 1))


@pytest.mark.parametrize(
  "bits", [1, pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_lsq_trains_weights_and_step_size_as_its_paper_says(bits):
  step = 0.3
  book, cotangent = lsq_book(step, bits), jnp.cos(7 * U)
  value, pull_back = jax.vjp(
    lambda u, s: lsq.at_steps(u, book, s), U, jnp.float32(step)
  )
  to_u, to_s = pull_back(cotangent)
  want = lsq_by_hand(
    np.asarray(U, np.float64), step, bits, np.asarray(cotangent)
  )
  np.testing.assert_allclose(value, want[0], atol=1e-6)
  np.testing.assert_allclose(to_u, want[1], atol=1e-6)
  np.testing.assert_allclose(to_s, want[2], rtol=1e-4)


def test_lsq_scales_with_weights_and_step_size():
  step, factor = 0.3, 64.0
  cotangent = jnp.cos(7 * U)

  def both(factor):
    book = lsq_book(factor * step, 2)
    value, pull_back = jax.vjp(
      lambda u, s: lsq.at_steps(u, book, s),
      factor * U,
      jnp.float32(factor * step),
    )
    return value, *pull_back(cotangent)

  (value, *grads), (large, *others) = both(1.0), both(factor)
  np.testing.assert_allclose(large, factor * value, rtol=1e-6)
  for one, other in zip(grads, others, strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-5)


@pytest.mark.slow
def test_lsq_counts_the_weights_of_each_channel():
  u = jnp.stack([U, 2 * U], axis=-1)
  books = [lsq_book(0.3, 2), lsq_book(0.5, 2)]
  together = jax.tree.map(lambda *x: jnp.stack(x), *books)

  def to_s(u, book, step):
    return jax.grad(lambda s: jnp.sum(jnp.cos(u) * lsq.at_steps(u, book, s)))(
      step
    )

  got = to_s(u, together, jnp.float32([0.3, 0.5]))
  for i, book in enumerate(books):
    want = to_s(u[:, i], book, jnp.float32([0.3, 0.5][i]))
    np.testing.assert_allclose(got[i], want, rtol=1e-5)
