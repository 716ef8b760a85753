import dataclasses
import functools
import re
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.quantization import (
  soft_bins,
  soft_forms,
  soft_steps,
  soft_window,
)
from quped_jax.quantization.codebook import (
  Codebook,
  hard_quantize,
  init_codebook,
  nearest,
)
from quped_jax.quantization.soft_quantizer import soft_quantize, steepness
from tests.levels import (
  gap_of,
  loss_and_gradients,
  make_codebook,
  make_levels,
  make_weights,
)

hard = jax.jit(hard_quantize)
find = jax.jit(nearest)
soft = jax.jit(soft_quantize, static_argnames="unit")
few = settings(deadline=None, max_examples=40)
BITS = (1, 2, 3, 4, 8)
SPACINGS = ("even", "outlier", "clusters", "geometric", "coinciding")


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
    pytest.param(8, "table", marks=pytest.mark.slow),
    pytest.param(8, "windowed", marks=pytest.mark.slow),
  ],
)
def test_soft_agrees_with_the_full_sum(bits, form, unit):
  for spacing in SPACINGS:
    levels = make_levels(spacing, 2**bits)
    x = make_weights(levels, 256)
    for sharpness in (0.1, 1.0, 10.0, 200.0):
      assert_agrees(x, levels, sharpness, unit, form=form)


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


@jax.jit
def window_width(codebook, sharpness):
  return soft_window.window_width(codebook, steepness(codebook, sharpness))


@pytest.mark.parametrize("count", [5, 8, 16, 200, 256])
def test_the_window_of_evenly_spaced_levels_is_one_step(count):
  codebook = make_codebook(make_levels("even", count))
  assert window_width(codebook, 10.0) == 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_window_of_mirrored_levels_is_as_wide(spacing):
  for seed in range(20):
    levels = make_levels(spacing, 16, seed)
    for sharpness in (1.0, 3.0, 10.0):
      width, mirrored = (
        int(window_width(make_codebook(c, 24, 1e3), sharpness))
        for c in (levels, -levels[::-1])
      )
      assert width == mirrored


@pytest.mark.parametrize(
  ("count", "max_levels"), [(2, 4), (3, 4), (8, 16), (200, 256)]
)
@pytest.mark.parametrize("padding", [None, -7.0, 1e4])
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


@pytest.mark.slow
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


def many_weights(levels, size, seed=0):
  """So many weights that they are quantized and summed in bins."""
  rng = np.random.default_rng(seed)
  x = make_weights(levels, size, seed)
  return rng.permutation(x), rng.normal(size=size).astype(np.float32)


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


@pytest.mark.parametrize("levels", [2, 4, 16])
def test_the_gradient_of_all_levels_by_one_reduction_is_the_same(levels):
  x = jnp.linspace(-2.0, 2.0, 300)
  cotangent = jnp.cos(5 * x)
  centers = jnp.linspace(-1.0, 1.3, levels)
  slope = jnp.float32(8.0)
  one, single = (
    soft_steps.dense_gradients(
      0, x, cotangent, centers, slope, together=together
    )
    for together in (True, False)
  )
  chex.assert_trees_all_close(one, single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 5, 16])
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


@pytest.mark.parametrize(
  ("max_levels", "points", "on_cpu", "elsewhere"),
  [
    (2, 2**20, "dense", "together"),
    (4, 2**20, "dense", "together"),
    (16, 2**13, "table", "together"),
    (16, 2**14, "windowed", "together"),
    (256, 2**9, "table", "table"),
    (256, 2**20, "windowed", "windowed"),
  ],
)
def test_size_and_platform_decide_which_form_is_taken(
  max_levels, points, on_cpu, elsewhere
):
  assert soft_forms.form("cpu", max_levels, points) == on_cpu
  assert soft_forms.form("accelerator", max_levels, points) == elsewhere


@pytest.mark.parametrize("max_levels", [2, 4, 16, 256])
def test_the_platform_that_a_program_is_lowered_for_decides(max_levels):
  """Whatever traces it: elsewhere one reduction for up to 16 levels."""

  def loss(x, centers):
    codebook = Codebook(centers, jnp.int32(max_levels))
    return jnp.sum(soft_quantize(x, codebook) ** 2)

  def lowered(platform):
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    exported = jax.export.export(gradients, platforms=[platform])(
      jax.ShapeDtypeStruct((100_000,), jnp.float32),
      jax.ShapeDtypeStruct((max_levels,), jnp.float32),
    )
    text = exported.mlir_module()
    reductions = re.findall(r"stablehlo\.reduce\(.*tensor<100000xf32>", text)
    return "stablehlo.scatter" in text, len(reductions)

  for platform in ("cuda", "tpu"):
    scatters, reductions = lowered(platform)
    assert scatters == (max_levels == 256)
    if max_levels <= 16:
      assert reductions == 1
  assert lowered("cpu")[0] == (max_levels > 2)
