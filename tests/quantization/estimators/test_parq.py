"""PARQ's map between levels, and its slope."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.quantization.estimators import parq
from tests.quantization.estimators.books import BOOK, LEVELS, U, nearest

affine = jax.jit(parq.piecewise_affine)


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
