import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.quantization import (
  soft_forms,
)
from quped_jax.quantization.codebook import (
  Codebook,
  hard_quantize,
  init_codebook,
  nearest,
)
from quped_jax.quantization.soft_quantizer import soft_quantize, steepness
from tests.levels import (
  SPACINGS,
  gap_of,
  make_codebook,
  make_levels,
  make_weights,
)

hard = jax.jit(hard_quantize)


find = jax.jit(nearest)


soft = jax.jit(soft_quantize, static_argnames="unit")


few = settings(deadline=None, max_examples=40)


BITS = (1, 2, 3, 4, 8)


def slope_of(levels, sharpness, unit):
  return sharpness if unit == "absolute" else sharpness / gap_of(levels)


def full_sum(x, levels, slope):
  """The definition, in float64; sigmoid(z) as (1 + tanh(z / 2)) / 2."""
  x = np.asarray(x, np.float64)[..., None]
  levels = np.asarray(levels, np.float64)
  middle = (levels[1:] + levels[:-1]) / 2
  share = 0.5 * (1 + np.tanh(slope * (x - middle) / 2))
  return levels[0] + np.sum(np.diff(levels) * share, axis=-1)


@jax.jit
def _full_sum_gradients(x, levels, slope):
  def one(x, levels):
    middle = (levels[1:] + levels[:-1]) / 2
    share = jax.nn.sigmoid(slope * (x - middle))
    return levels[0] + jnp.sum(jnp.diff(levels) * share)

  return jax.vmap(jax.grad(one, argnums=(0, 1)), in_axes=(0, None))(x, levels)


def full_sum_gradients(x, levels, slope, max_levels):
  """Autodiff of the definition, in float64.

  For one compilation the last level is repeated up to `max_levels`, which
  adds nothing to the sum, and the derivatives to its copies are added up.

  Returns:
    Derivatives to each weight `[weights]` and to each level
    `[weights, levels]`.
  """
  last = len(levels) - 1
  with jax.enable_x64(True):
    x = jnp.asarray(np.asarray(x, np.float64))
    padded = np.pad(levels, (0, max_levels - last - 1), mode="edge")
    dx, dc = _full_sum_gradients(x, padded.astype(np.float64), slope)
  dx, dc = np.asarray(dx), np.asarray(dc)
  folded = np.sum(dc[:, last:], axis=1, keepdims=True)
  return dx, np.concatenate([dc[:, :last], folded], axis=1)


@functools.partial(jax.jit, static_argnames=("unit", "form"))
def soft_with_gradients(x, codebook, sharpness, unit="gap", form=None):
  """Values `[weights]`, and the derivatives as `full_sum_gradients`.

  In the given form, if any, rather than in that for so few weights.
  """

  def one(x, centers):
    return soft_quantize(
      x, dataclasses.replace(codebook, centers=centers), sharpness, unit=unit
    )

  fn = jax.vmap(jax.value_and_grad(one, argnums=(0, 1)), in_axes=(0, None))
  with pytest.MonkeyPatch.context() as patch:
    if form is not None:
      patch.setattr(soft_forms, "form", lambda *_: form)
    # The values all at once, as in use; only derivatives weight by weight.
    _, gradients = fn(x, codebook.centers)
    return one(x, codebook.centers), *gradients


def assert_agrees(x, levels, sharpness, unit, max_levels=None, form=None):
  """Values to 1e-3 of the mean gap, derivatives to 2e-3, and rounding.

  A derivative has no unit; the neglected levels change it by at most 1e-3.
  In float32 each level that matters to a weight may add half an ulp to its
  sum, and the argument of a sigmoid is off by an ulp of the weight times the
  slope.
  """
  slope = slope_of(levels, sharpness, unit)
  codebook = make_codebook(levels, max_levels, padding=3e3)
  value, dx, dc = soft_with_gradients(
    x, codebook, jnp.float32(sharpness), unit=unit, form=form
  )
  want_dx, want_dc = full_sum_gradients(
    x, levels, slope, max_levels or len(levels)
  )
  ulp = 2.0**-23 * np.max(np.abs(np.concatenate([x, levels])))
  near = np.sum(np.abs(x[:, None] - levels) < 8 / slope, axis=1)
  rounding = ulp * (2 + 2 * np.max(np.abs(want_dx)) + np.max(near) / 2)
  np.testing.assert_allclose(
    value,
    full_sum(x, levels, slope),
    rtol=0,
    atol=1e-3 * gap_of(levels) + rounding,
  )
  close = functools.partial(
    np.testing.assert_allclose, rtol=5e-3, atol=2e-3 + 8 * slope * ulp
  )
  count = len(levels)
  close(dx, want_dx)
  close(dc[:, :count], want_dc)
  assert not np.any(dc[:, count:])


@pytest.mark.parametrize("unit", ["gap", "absolute"])
@pytest.mark.parametrize(
  ("bits", "form"),
  [
    (1, "dense"),
    (2, "dense"),
    (3, "table"),
    (4, "windowed"),
    pytest.param(8, "table", marks=pytest.mark.long),
    pytest.param(8, "windowed", marks=pytest.mark.long),
  ],
)
def test_soft_agrees_with_the_full_sum(bits, form, unit):
  for spacing in SPACINGS:
    levels = make_levels(spacing, 2**bits)
    x = make_weights(levels, 256)
    for sharpness in (0.1, 1.0, 10.0, 200.0):
      assert_agrees(x, levels, sharpness, unit, form=form)


@pytest.mark.slow
@given(
  levels=st.lists(st.integers(-300, 300), min_size=2, max_size=16, unique=True),
  sharpness=st.floats(0.25, 100.0, width=32),
  seed=st.integers(0, 1000),
)
@few
def test_soft_agrees_for_any_levels_and_padding(levels, sharpness, seed):
  levels = np.sort(np.asarray(levels, np.float32)) / 100
  x = make_weights(levels, 64, seed)
  assert_agrees(x, levels, sharpness, "gap", max_levels=16, form="windowed")


@pytest.mark.parametrize("bits", BITS)
def test_soft_tends_to_hard(bits):
  levels = make_levels("even", 2**bits)
  x = make_weights(levels, 256)
  middle = (levels[1:] + levels[:-1]) / 2
  distance = np.min(np.abs(x[:, None] - middle), axis=1)
  x = x[distance > 0.02 * gap_of(levels)]
  codebook = make_codebook(levels)
  np.testing.assert_allclose(
    soft(x, codebook, 1000.0),
    hard(x, codebook),
    rtol=0,
    atol=1e-5,
  )


def test_the_unit_of_the_default_sharpness_is_the_mean_gap():
  levels = np.array([-3.0, 0.0, 0.5, 4.0], np.float32)
  x = np.linspace(-4, 5, 64, dtype=np.float32)
  codebook = make_codebook(levels)
  want = full_sum(x, levels, 10 / (7 / 3))
  np.testing.assert_allclose(soft(x, codebook), want, atol=1e-5)
  absolute = soft(x, codebook, 30 / 7, unit="absolute")
  np.testing.assert_allclose(absolute, want, atol=1e-5)


def test_the_steepness_has_no_gradient():
  """P is a constant of a step: levels are not moved to change it."""
  codebook = make_codebook([-3.0, 0.0, 0.5, 4.0])

  def slope(centers):
    return steepness(dataclasses.replace(codebook, centers=centers), 10.0)

  value, gradient = jax.value_and_grad(slope)(codebook.centers)
  assert float(value) == pytest.approx(10 / (7 / 3))
  assert not np.any(gradient)


@pytest.mark.parametrize(
  ("sharpness", "unit", "message"),
  [
    (10.0, "gaps", "sharpness_unit='gaps': must"),
    (-1.0, "gap", "sharpness=-1"),
  ],
)
def test_a_steepness_that_cannot_be_is_an_error(sharpness, unit, message):
  with pytest.raises(ValueError, match=message):
    steepness(make_codebook([0.0, 1.0]), sharpness, unit)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("count", "max_levels"), [(2, 4), (3, 4), (8, 16), (200, 256)]
)
@pytest.mark.parametrize(
  "padding", [None, pytest.param(-7.0, marks=pytest.mark.long), 1e4]
)
def test_padding_changes_nothing(count, max_levels, padding):
  levels = make_levels("clusters", count)
  x = make_weights(levels, 256)
  plain = make_codebook(levels)
  padded = make_codebook(levels, max_levels, padding)
  form = "windowed" if max_levels > 4 else None
  want = soft_with_gradients(x, plain, 10.0, form=form)
  value, dx, dc = soft_with_gradients(x, padded, 10.0, form=form)
  np.testing.assert_allclose(value, want[0], rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(dx, want[1], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(dc[:, :count], want[2], rtol=1e-5, atol=1e-5)
  assert not np.any(dc[:, count:])
  np.testing.assert_array_equal(hard(x, padded), hard(x, plain))
  np.testing.assert_array_equal(find(x, padded), find(x, plain))


@pytest.mark.parametrize("max_levels", [2, 4, 16, 256])
@pytest.mark.parametrize("sharpness", [1.0, 10.0])
def test_no_gradient_is_lost(max_levels, sharpness):
  """Moving weights and levels together moves the result equally far."""
  levels = make_levels("geometric", max_levels // 2 + 1)
  x = make_weights(levels, 256)
  _, dx, dc = soft_with_gradients(
    x,
    make_codebook(levels, max_levels, 9.0),
    sharpness,
    form="windowed" if max_levels > 4 else None,
  )
  slope = slope_of(levels, sharpness, "gap")
  np.testing.assert_allclose(
    dx + np.sum(dc, axis=1), np.ones(256), atol=1e-4 + 1e-6 * slope
  )


def full_sum_in_chunks(x, codebook):
  """The sum over all levels as a user would write it."""
  levels = codebook.centers
  slope = 10.0 / jax.lax.stop_gradient(
    (levels[-1] - levels[0]) / (levels.shape[0] - 1)
  )
  middle, gaps = (levels[1:] + levels[:-1]) / 2, jnp.diff(levels)

  def chunk(x):
    share = jax.nn.sigmoid(slope * (x[:, None] - middle))
    return levels[0] + jnp.sum(gaps * share, axis=-1)

  return jax.lax.map(chunk, x.reshape(-1, 2000)).ravel()


@pytest.mark.long
def test_the_cost_does_not_grow_with_the_number_of_levels():
  x = jax.random.normal(jax.random.key(0), (200_000,))

  def prepare(quantize, bits):
    codebook = init_codebook(x, bits)

    def loss(x, centers):
      return jnp.sum(jnp.sin(quantize(x, Codebook(centers, codebook.levels))))

    fn = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    jax.block_until_ready(fn(x, codebook.centers))
    return lambda: jax.block_until_ready(fn(x, codebook.centers))

  runs = {
    "4 bits": (prepare(soft_quantize, 4), 12),
    "8 bits": (prepare(soft_quantize, 8), 12),
    "full": (prepare(full_sum_in_chunks, 8), 2),
  }
  best = dict.fromkeys(runs, float("inf"))
  # In turns, so that a slow spell of the machine meets all of them.
  for turn in range(12):
    for name, (run, repetitions) in runs.items():
      if turn < repetitions:
        start = time.perf_counter()
        run()
        best[name] = min(best[name], time.perf_counter() - start)
  # It is 1.5 on an idle machine; the rest is slack for busy ones.
  assert best["8 bits"] <= 2.0 * best["4 bits"], best
  assert best["8 bits"] <= best["full"] / 5, best
