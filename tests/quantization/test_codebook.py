import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.codebook import (
  Codebook,
  hard_quantize,
  init_codebook,
  look_up,
  max_levels_for,
  nearest,
  set_centers,
)
from quped_jax.quantization.soft_quantizer import (
  soft_quantize,
)
from tests.levels import (
  gap_of,
  loss_and_gradients,
  make_codebook,
  make_levels,
  make_weights,
)

hard = jax.jit(hard_quantize)
find = jax.jit(nearest)
reorder = jax.jit(set_centers)
init_traced = jax.jit(init_codebook, static_argnums=2)
soft = jax.jit(soft_quantize, static_argnames="unit")
init = jax.jit(
  init_codebook,
  static_argnames=("bits", "max_levels", "granularity", "outer_level"),
)
few = settings(deadline=None, max_examples=40)
BITS = (1, 2, 3, 4, 8)
SPACINGS = ("even", "outlier", "clusters", "geometric", "coinciding")


def test_gradient_to_padding_is_folded_onto_the_last_level():
  codebook = make_codebook([-1.0, 0.5], 4, padding=7.0)

  def read(centers):
    view = codebook_lib.view_centers(
      dataclasses.replace(codebook, centers=centers)
    )
    return jnp.sum(view * jnp.array([1.0, 2.0, 3.0, 4.0]))

  np.testing.assert_array_equal(
    jax.grad(read)(codebook.centers), [1.0, 9.0, 0.0, 0.0]
  )


def test_the_mean_gap_has_no_gradient():
  codebook = make_codebook([-3.0, 0.0, 0.5, 4.0])

  def gap(centers):
    return codebook_lib.mean_gap(dataclasses.replace(codebook, centers=centers))

  value, gradient = jax.value_and_grad(gap)(codebook.centers)
  assert float(value) == pytest.approx(7 / 3)
  assert not np.any(gradient)


@pytest.mark.parametrize("sign", [1, -1])
def test_two_levels_of_weights_of_one_sign_are_split_at_the_mean(sign):
  x = sign * np.array([0.1, 0.2, 0.6, 0.7], np.float32)
  want = np.sort(sign * np.array([0.15, 0.65], np.float32))
  got = init_codebook(jnp.asarray(x), 1).centers
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_two_levels_of_weights_of_both_signs_are_split_at_zero():
  x = np.array([-0.1, 0.2, 0.6, 0.7], np.float32)
  np.testing.assert_allclose(
    init_codebook(jnp.asarray(x), 1).centers, [-0.1, 0.5], rtol=1e-6
  )


soft_loss = loss_and_gradients(soft_quantize)


@pytest.mark.slow
def test_learners_of_mixed_precision_share_one_program():
  bits = np.array([1, 3, 8, 32])
  rng = np.random.default_rng(0)
  x = rng.normal(size=(len(bits), 40)).astype(np.float32)
  weights = rng.normal(size=40).astype(np.float32)
  traces = []

  @jax.jit
  def everything(x, bits):
    traces.append(None)
    codebooks = jax.vmap(lambda x, b: init_codebook(x, b, 256))(x, bits)
    fn = jax.vmap(soft_loss, in_axes=(0, 0, 0, None))
    soft = fn(x, codebooks.centers, codebooks.levels, weights)
    return codebooks, soft, jax.vmap(hard_quantize)(x, codebooks)

  for order in (np.arange(4), np.arange(4)[::-1]):
    codebooks, (value, (dx, dc)), quantized = everything(x, bits[order])
    chex.assert_shape(codebooks.centers, (4, 256))
    for i, b in enumerate(bits[order].tolist()):
      alone = init(x[i], bits=b)
      count = int(alone.levels)
      assert count == codebooks.levels[i] == (0 if b == 32 else 2**b)
      centers = np.asarray(codebooks.centers[i])
      np.testing.assert_allclose(
        centers[:count], alone.centers[:count], rtol=1e-5, atol=1e-6
      )
      np.testing.assert_array_equal(centers[count:], centers[count - 1])
      np.testing.assert_allclose(
        quantized[i], hard(x[i], alone), rtol=1e-5, atol=1e-6
      )
      want = soft_loss(x[i], alone.centers, alone.levels, weights)
      gap = gap_of(alone.centers) if count else 0.0
      np.testing.assert_allclose(value[i], want[0], atol=0.05 * gap + 1e-4)
      np.testing.assert_allclose(dx[i], want[1][0], rtol=1e-2, atol=5e-3)
      np.testing.assert_allclose(
        dc[i, :count], want[1][1][:count], rtol=1e-2, atol=2e-2
      )
      assert not np.any(dc[i, count:])
  assert len(traces) == 1


@pytest.mark.slow
@given(
  levels=st.lists(st.integers(-60, 60), min_size=2, max_size=200),
  x=st.lists(st.integers(-140, 140), min_size=50, max_size=50),
)
@few
def test_hard_is_the_brute_force_nearest_and_the_lower_at_ties(levels, x):
  """Quarters, so that distances and ties are exact in float32."""
  centers = np.sort(np.asarray(levels, np.float32))
  x = np.asarray(x, np.float32) / 2
  # argmin takes the first, which is the lower one.
  index = np.argmin(np.abs(x[:, None] - centers), axis=1)
  for max_levels in (200, 256):
    codebook = make_codebook(centers, max_levels, padding=0.25)
    quantized = np.asarray(hard(x, codebook))
    np.testing.assert_array_equal(quantized, centers[index])
    np.testing.assert_array_equal(
      look_up(find(x, codebook), codebook), centers[index]
    )
    assert len(np.unique(quantized)) <= len(centers)
    if len(set(levels)) == len(levels):
      np.testing.assert_array_equal(find(x, codebook), index)


@pytest.mark.parametrize("count", [2, 5, 16, 17, 64, 256, 300])
def test_nearest_finds_every_level_and_border(count):
  centers = np.arange(count, dtype=np.float32)
  codebook = make_codebook(centers)
  np.testing.assert_array_equal(find(centers, codebook), np.arange(count))
  np.testing.assert_array_equal(
    find(centers[:-1] + np.float32(0.5), codebook), np.arange(count - 1)
  )
  far = jnp.array([-1e30, -jnp.inf, 1e30, jnp.inf])
  last = count - 1
  np.testing.assert_array_equal(find(far, codebook), [0, 0, last, last])


@pytest.mark.parametrize("count", [2, 4, 16, 256])
def test_gradient_of_a_level_sums_over_its_weights_and_none_reaches_x(count):
  rng = np.random.default_rng(0)
  levels = make_levels("even", count)
  x = make_weights(levels, 512)
  weights = rng.normal(size=512).astype(np.float32)
  codebook = make_codebook(levels)
  fn = loss_and_gradients(hard_quantize)
  _, (dx, dc) = fn(x, codebook.centers, codebook.levels, weights)
  want = np.zeros(count)
  np.add.at(want, np.asarray(find(x, codebook)), weights)
  np.testing.assert_allclose(dc, want, rtol=1e-5, atol=1e-5)
  assert not np.any(dx)


@pytest.mark.slow
@pytest.mark.parametrize("max_levels", [4, 256])
@pytest.mark.parametrize("quantize", [soft_quantize, hard_quantize])
def test_full_precision_is_the_identity_to_the_bit(quantize, max_levels):
  rng = np.random.default_rng(0)
  x = rng.normal(size=99).astype(np.float32) * 10.0 ** rng.integers(-30, 30, 99)
  x = x.astype(np.float32)
  x[:4] = 0.0, -0.0, 3e38, -3e38
  codebook = init(x[4:], bits=32, max_levels=max_levels)
  assert codebook.levels == 0
  bits = np.asarray(quantize(x, codebook)).view(np.int32)
  np.testing.assert_array_equal(bits, x.view(np.int32))
  weights = rng.normal(size=99).astype(np.float32)
  fn = loss_and_gradients(quantize)
  _, (dx, dc) = fn(x, codebook.centers, codebook.levels, weights)
  np.testing.assert_array_equal(dx, weights)
  assert not np.any(dc)


def test_full_precision_passes_infinity_on():
  codebook = init_codebook(jnp.ones(3), 32)
  x = jnp.array([jnp.inf, -jnp.inf])
  np.testing.assert_array_equal(soft(x, codebook), x)
  np.testing.assert_array_equal(hard(x, codebook), x)


TENSORS = {
  "zeros": np.zeros(10),
  "constant": np.full((2, 5), 3.25),
  "negative constant": np.full(10, -1e-6),
  "large constant": np.full(10, 1e30),
  "all positive": np.linspace(0.5, 0.7, 10),
  "all negative": -np.linspace(1e-3, 1, 10),
  "one element": np.array([2.0]),
  "one zero": np.zeros((1, 1)),
  "two elements": np.array([-1.0, 1.0]),
  "two equal signs": np.array([1.0, 2.0]),
  "no negatives, one zero": np.array([0.0, 1.0, 1.0]),
  "nearly constant": np.array([1.0, 1.00001]),
  "far apart": np.array([-3e38, 3e38, 1.0]),
  "tiny": np.array([-1e-20, 2e-20, 1e-20]),
}


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", TENSORS)
def test_any_tensor_gets_distinct_sorted_finite_levels(name, bits):
  x = np.asarray(TENSORS[name], np.float32)
  codebook = init_traced(x, bits, 256)
  assert codebook.levels == 2**bits
  centers = np.asarray(codebook.centers, np.float64)[: 2**bits]
  assert np.all(np.isfinite(centers))
  assert np.all(np.diff(centers) > 0)


@given(
  x=st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6),
  base=st.sampled_from([0.0, 1.0, -300.0]),
  scale=st.sampled_from([1.0, 1e-4, 1e-6]),
  bits=st.integers(1, 8),
)
@few
def test_levels_are_distinct_whatever_the_weights(x, base, scale, bits):
  x = np.asarray(base + scale * np.asarray(x), np.float32)
  centers = np.asarray(init_traced(x, bits, 256).centers)[: 2**bits]
  assert np.all(np.isfinite(centers))
  assert np.all(np.diff(centers) > 0)


def test_one_bit_starts_at_the_means_of_either_sign():
  x = jnp.array([[-1.0, -3.0, 0.0], [2.0, 4.0, 9.0]])
  np.testing.assert_allclose(init_codebook(x, 1).centers, [-2.0, 3.75])
  # One sign only: split at the mean, 4.
  x = jnp.array([1.0, 2.0, 9.0])
  np.testing.assert_allclose(init_codebook(x, 1).centers, [1.5, 9.0])
  np.testing.assert_allclose(init_codebook(-x, 1).centers, [-9.0, -1.5])


@pytest.mark.parametrize("bits", range(2, 9))
def test_more_bits_start_evenly_from_smallest_to_largest(bits):
  x = np.random.default_rng(0).normal(size=100).astype(np.float32)
  centers = init(x, bits=bits, max_levels=300).centers
  np.testing.assert_allclose(
    centers[: 2**bits], np.linspace(x.min(), x.max(), 2**bits), atol=1e-6
  )
  np.testing.assert_array_equal(centers[2**bits :], centers[2**bits - 1])


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_outer_level_overrides_the_weights(bits):
  x = jnp.array([0.1, 0.2, 7.0])
  codebook = init_codebook(x, bits, outer_level=1.5)
  np.testing.assert_allclose(
    codebook.centers, np.linspace(-1.5, 1.5, 2**bits), atol=1e-6
  )


# Subnormal numbers may count as zero.
normal_floats = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@given(
  centers=st.lists(normal_floats, min_size=8, max_size=8),
  count=st.integers(0, 8),
)
@few
def test_set_centers_sorts_and_refills_the_padding(centers, count):
  codebook = Codebook(jnp.zeros(8), jnp.int32(count))
  new = reorder(codebook, np.asarray(centers, np.float32))
  centers = np.asarray(centers, np.float32)
  assert new.levels == count
  if count == 0:
    np.testing.assert_array_equal(new.centers, np.zeros(8))
  else:
    np.testing.assert_array_equal(new.centers[:count], np.sort(centers[:count]))
    np.testing.assert_array_equal(new.centers[count:], new.centers[count - 1])


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 3, 32])
def test_a_codebook_per_channel_is_a_loop_over_channels(bits):
  rng = np.random.default_rng(0)
  scales = np.array([0.1, 1.0, 5.0], np.float32)
  x = rng.normal(size=(4, 6, 3)).astype(np.float32) * scales
  together = init(x, bits=bits, granularity="channel")
  chex.assert_shape(together.levels, (3,))
  alone = [init(x[..., i], bits=bits) for i in range(3)]
  for i, codebook in enumerate(alone):
    np.testing.assert_allclose(
      together.centers[i], codebook.centers, rtol=1e-6, atol=1e-7
    )
  weights = rng.normal(size=x.shape).astype(np.float32)

  def loop(fn):
    return np.stack([fn(x[..., i], c) for i, c in enumerate(alone)], axis=-1)

  np.testing.assert_array_equal(find(x, together), loop(find))
  np.testing.assert_allclose(
    hard(x, together), loop(hard), rtol=1e-6, atol=1e-7
  )
  np.testing.assert_allclose(
    soft(x, together, 5.0),
    loop(lambda x, c: soft(x, c, 5.0)),
    rtol=1e-5,
    atol=1e-6,
  )
  _, (dx, dc) = soft_loss(x, together.centers, together.levels, weights)
  for i, c in enumerate(alone):
    _, (dxi, dci) = soft_loss(x[..., i], c.centers, c.levels, weights[..., i])
    np.testing.assert_allclose(dx[..., i], dxi, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dc[i], dci, rtol=1e-4, atol=1e-4)
  new = rng.normal(size=together.centers.shape).astype(np.float32)
  moved = reorder(together, new)
  for i, c in enumerate(alone):
    np.testing.assert_array_equal(moved.centers[i], reorder(c, new[i]).centers)


@pytest.mark.parametrize(
  ("bits", "levels"), [(1, 2), (8, 256), (32, 2), ([1, 3, 32], 8), ([32], 2)]
)
def test_max_levels_holds_the_largest_precision(bits, levels):
  assert max_levels_for(bits) == levels


X = jnp.arange(4.0)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: init_codebook(X, 0), r"bits=0: must be from 1 to 8, or 32"),
    (lambda: init_codebook(X, 9), r"bits=9: must be"),
    (lambda: init_codebook(X, -1), r"bits=-1: must be"),
    (lambda: init_codebook(X, 2.5), r"bits=2\.5: must be"),  # pyright: ignore
    (lambda: init_codebook(X, jnp.int32(9)), r"bits=9: must be"),
    (lambda: max_levels_for([2, 16]), r"bits=16: must be"),
    (
      lambda: codebook_lib.check_bits([4, 0], "clients.bits"),
      r"clients\.bits=0: must be",
    ),
    (lambda: init_codebook(X, 3, 7), r"max_levels=7: must be at least 8"),
    (
      lambda: jax.jit(init_codebook)(X, 3),
      r"max_levels=None: must be given when bits is traced",
    ),
    (
      lambda: init_codebook(X, 1, granularity="row"),
      r"granularity='row': must be one of tensor, channel",
    ),
    (
      lambda: soft_quantize(X, init_codebook(X, 1), unit="gaps"),
      r"sharpness_unit='gaps': must be one of gap, absolute",
    ),
    (
      lambda: soft_quantize(X, init_codebook(X, 1), 0.0),
      r"sharpness=0\.0: must be positive",
    ),
    (
      lambda: soft_quantize(X, init_codebook(X, 3), -2.0, unit="absolute"),
      r"sharpness=-2\.0: must be positive",
    ),
  ],
)
def test_errors_name_the_field_and_its_value(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_nan_is_never_mistaken_for_a_level():
  codebook = codebook_of_pair()
  x = jnp.array([jnp.nan, 1.0])
  quantized = np.asarray(qj.hard_quantize(x, codebook))
  assert np.isnan(quantized[0]) and quantized[1] == 0.5
  broken = qj.set_centers(codebook, jnp.array([jnp.nan, 0.1, 7.0, 7.0]))
  assert np.isnan(np.asarray(broken.centers)).all()


@pytest.mark.parametrize("centers", [jnp.ones(1), jnp.ones((2, 4))])
def test_centers_of_another_shape_are_not_broadcast(centers):
  with pytest.raises(AssertionError, match="shape"):
    set_centers(codebook_of_pair(), centers)


def codebook_of_pair():
  """Two levels, -0.5 and 0.5, in a codebook of four."""
  centers = jnp.array([-0.5, 0.5, 0.5, 0.5])
  return qj.Codebook(centers, jnp.int32(2))
