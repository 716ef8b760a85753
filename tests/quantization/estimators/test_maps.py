"""The maps of estimators with latent weights, and their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.estimators import binaryrelax, lsq, parq, ste

LEVELS = np.array([-1.0, -0.2, 0.4, 1.5])
BOOK = Codebook(jnp.float32([*LEVELS, 1.5, 1.5]), jnp.int32(4))
U = jnp.linspace(-2.0, 2.0, 161) + 1e-3
RATES = qj.Rates(0.1, 0.01, 0.0)


def nearest(u):
  u = np.asarray(u)
  return LEVELS[np.argmin(np.abs(u[..., None] - LEVELS), axis=-1)]


affine = jax.jit(parq.piecewise_affine)
relaxed = jax.jit(binaryrelax.relaxed)


@pytest.mark.parametrize("rho", [1.0, 0.6, 0.1, 1e-6, 0.0])
def test_parqs_map_is_affine_between_levels(rho):
  want = []
  for u in np.asarray(U, np.float64):
    inner = np.searchsorted(LEVELS, u)
    low = LEVELS[max(inner - 1, 0)]
    high = LEVELS[min(inner, len(LEVELS) - 1)]
    middle = (low + high) / 2
    steep = middle + (u - middle) / max(rho, 1e-12)
    want.append(min(max(steep, low), high))
  got = np.asarray(affine(U, BOOK, rho))
  np.testing.assert_allclose(got, want, atol=2e-6 / max(rho, 1e-2))
  assert np.all(np.diff(got) >= 0)
  if rho == 1:
    np.testing.assert_allclose(got, np.clip(U, -1.0, 1.5), atol=1e-6)
  if rho < 1e-5:
    np.testing.assert_allclose(got, nearest(U), atol=1e-6)


def test_parqs_map_keeps_levels_and_middles():
  middles = (LEVELS[1:] + LEVELS[:-1]) / 2
  fixed = jnp.float32(np.resize(np.concatenate([LEVELS, middles]), U.shape))
  for rho in (1.0, 0.5, 0.01):
    np.testing.assert_allclose(affine(fixed, BOOK, rho), fixed, atol=1e-5)


def test_parqs_slope_goes_from_one_to_infinity():
  for steepness in (0.1, 10.0, 1000.0):
    annealing = qj.Annealing(
      anneal_start=0.25, anneal_end=0.75, parq_steepness=steepness
    )
    progress = np.linspace(0, 1, 41)
    rho = np.asarray(parq.inverse_slope(annealing, progress))
    np.testing.assert_array_equal(rho[progress <= 0.25], 1)
    np.testing.assert_array_equal(rho[progress >= 0.75], 0)
    np.testing.assert_allclose(rho[20], 0.5, atol=1e-5)
    assert np.all(np.diff(rho) <= 0)
  annealing = qj.Annealing(anneal_end=1.0)

  def g(t):
    return 1 / (1 + math.exp(10 * (t - 0.5)))

  want = (g(0.3) - g(1)) / (g(0) - g(1))
  np.testing.assert_allclose(
    parq.inverse_slope(annealing, 0.3), want, rtol=1e-5
  )


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


@pytest.mark.parametrize("bits", [1, 2, 3])
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
