import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization import (
  soft_bins,
)
from quped_jax.quantization.codebook import (
  Codebook,
  init_codebook,
)
from quped_jax.quantization.soft_quantizer import soft_quantize
from tests.levels import (
  SPACINGS,
  gap_of,
  loss_and_gradients,
  make_codebook,
  make_levels,
  many_weights,
)

soft = jax.jit(soft_quantize, static_argnames="unit")


def full_loss(x, centers, cotangent, sharpness):
  """<cotangent, soft quantizer> by the definition, for autodiff."""
  count = centers.shape[0] - 1
  slope = sharpness * count / jax.lax.stop_gradient(centers[-1] - centers[0])
  middle = (centers[1:] + centers[:-1]) / 2

  def add(total, step):
    gap, middle = step
    return total + gap * jax.nn.sigmoid(slope * (x - middle)), None

  start = jnp.broadcast_to(centers[0], x.shape)
  soft, _ = jax.lax.scan(add, start, (jnp.diff(centers), middle))
  return jnp.vdot(cotangent, soft), soft


def soft_loss(x, centers, codebook, cotangent):
  soft = soft_quantize(x, dataclasses.replace(codebook, centers=centers))
  return jnp.vdot(cotangent, soft), soft


# Compiled once for all levels of a size.
full_gradients, soft_gradients = (
  jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  for loss in (full_loss, soft_loss)
)


@pytest.mark.parametrize(
  ("count", "max_levels", "size", "spacing"),
  [
    *((2, 2, 20_000, spacing) for spacing in SPACINGS),
    *((4, 4, 20_000, spacing) for spacing in SPACINGS),
    (2, 16, 20_000, "even"),
    *((16, 16, 20_000, spacing) for spacing in SPACINGS),
    (200, 256, 70_000, "clusters"),
    *(
      pytest.param(256, 256, 70_000, spacing, marks=marks)
      for spacing, marks in (
        ("even", ()),
        ("outlier", pytest.mark.slow),
        ("clusters", pytest.mark.slow),
        ("geometric", ()),
        ("coinciding", pytest.mark.slow),
      )
    ),
  ],
)
def test_many_weights_agree_with_the_full_sum(count, max_levels, size, spacing):
  levels = make_levels(spacing, count)
  x, cotangent = many_weights(levels, size)
  codebook = make_codebook(levels, max_levels, padding=3e3)
  assert count == 2 or soft_bins.bin_count(max_levels, 10.0, size) > 0
  (_, value), (dx, dc) = soft_gradients(
    x, codebook.centers, codebook, cotangent
  )
  with jax.enable_x64(True):
    double = [np.asarray(a, np.float64) for a in (x, levels, cotangent)]
    (_, want), (want_dx, want_dc) = full_gradients(*double, 10.0)
  gap = gap_of(levels)
  ulp = 2.0**-23 * np.max(np.abs(np.concatenate([x, levels])))
  want_dx, want_dc = np.asarray(want_dx), np.asarray(want_dc)
  largest = np.max(np.abs(want_dx / cotangent))
  atol = 1e-3 * gap + 1e-4 * np.max(np.diff(levels))
  atol += ulp * (4 + 2 * largest)
  np.testing.assert_allclose(value, want, rtol=0, atol=atol)
  # Relative to the largest derivative; the argument of a sigmoid is off by an
  # ulp of the weight times the slope.
  error = 2e-3 * max(largest, 1.0) + 80 / gap * ulp * largest
  assert np.all(np.abs(dx - want_dx) <= error * np.abs(cotangent) + 1e-6)
  # Errors of single weights, at most 1e-3 each, of either sign.
  atol = 1e-3 * np.sqrt(np.sum(cotangent**2)) + 80 / gap * ulp * np.sqrt(size)
  np.testing.assert_allclose(dc[:count], want_dc, rtol=1e-3, atol=atol)
  assert not np.any(dc[count:])


@pytest.mark.parametrize(
  "max_levels",
  [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 16))],
)
def test_many_weights_are_mapped_over_learners_and_channels(max_levels):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(20_000, 3)).astype(np.float32) * [0.1, 1.0, 5.0]
  x = x.astype(np.float32)
  cotangent = rng.normal(size=x.shape).astype(np.float32)
  bits = int(np.log2(max_levels))
  together = jax.jit(
    functools.partial(init_codebook, bits=bits, granularity="channel")
  )(x)
  value = soft(x, together)
  fn = loss_and_gradients(soft_quantize)
  _, (dx, dc) = fn(x, together.centers, together.levels, cotangent)
  learners = jax.jit(jax.vmap(soft_quantize, in_axes=(1, 0), out_axes=1))
  np.testing.assert_array_equal(value, learners(x, together))
  for i in range(3):
    c = Codebook(together.centers[i], together.levels[i])
    np.testing.assert_allclose(value[:, i], soft(x[:, i], c), rtol=1e-4)
    _, (dxi, dci) = fn(x[:, i], c.centers, c.levels, cotangent[:, i])
    np.testing.assert_allclose(dx[:, i], dxi, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dc[i], dci, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("max_levels", [4, 16])
def test_many_weights_of_full_precision_stay_to_the_bit(max_levels):
  x, cotangent = many_weights(np.array([-2, 3], np.float32), 20_000)
  x[:4] = 0.0, -0.0, 3e38, np.inf
  codebook = Codebook(jnp.zeros(max_levels), jnp.int32(0))
  np.testing.assert_array_equal(
    np.asarray(soft(x, codebook)).view(np.int32), x.view(np.int32)
  )
  fn = loss_and_gradients(soft_quantize)
  x[3] = 1.0
  _, (dx, dc) = fn(x, codebook.centers, codebook.levels, cotangent)
  np.testing.assert_array_equal(dx, cotangent)
  assert not np.any(dc)


@pytest.mark.parametrize("max_levels", [2, 4, 16])
def test_nan_among_many_weights_stays_where_it_is(max_levels):
  levels = make_levels("even", max_levels)
  x, _ = many_weights(levels, 20_000)
  x[7] = np.nan
  value = np.asarray(soft(x, make_codebook(levels)))
  np.testing.assert_array_equal(np.isnan(value), np.isnan(x))


@pytest.mark.parametrize("max_levels", [2, 4, 16])
def test_double_precision_is_kept(max_levels):
  levels = make_levels("even", max_levels)
  x, cotangent = many_weights(levels, 20_000)
  with jax.enable_x64(True):
    x, cotangent = x.astype(np.float64), cotangent.astype(np.float64)
    centers = jnp.asarray(levels.astype(np.float64))
    count = jnp.int32(max_levels)
    fn = loss_and_gradients(soft_quantize)
    value, gradients = fn(x, centers, count, cotangent)
    (want, _), want_gradients = full_gradients(x, centers, cotangent, 10.0)
    assert value.dtype == gradients[0].dtype == gradients[1].dtype == np.float64
  np.testing.assert_allclose(value, want, rtol=1e-3)
  for got, full in zip(gradients, want_gradients, strict=True):
    np.testing.assert_allclose(got, full, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("max_levels", [2, 4, 16])
def test_a_derivative_is_that_of_the_values(max_levels):
  """Moving weights and levels together moves the sum equally far."""
  levels = make_levels("clusters", max_levels)
  x, cotangent = many_weights(levels, 20_000)
  fn = loss_and_gradients(soft_quantize)
  c = make_codebook(levels)
  _, (dx, dc) = fn(x, c.centers, c.levels, cotangent)
  total = np.sum(dx) + np.sum(dc)
  np.testing.assert_allclose(total, np.sum(cotangent), atol=0.1)
