"""Numerical edge cases: what holds for any finite weights, levels and data.

Weights, levels and thresholds are up to 1e38 here: differences of two are then
finite in float32, so that nothing may overflow.
"""

import dataclasses
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quped_jax as qj
from quped_jax.data.federation import ClientData, Split
from quped_jax.quantization import alternating, optimizers, training_steps
from quped_jax.quantization.codebook import (
  Codebook,
  hard_quantize,
  init_codebook,
  nearest,
  set_centers,
)
from quped_jax.quantization.proximal import centers_prox, weights_prox
from quped_jax.quantization.soft_quantizer import soft_quantize
from tests import tiny

LONG = os.environ.get("QUPED_LONG_TESTS") == "1"
few = settings(deadline=None, max_examples=1000 if LONG else 40)

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
LARGE = 1e38
LENGTH, LEVELS = 6, 8
# Denormal numbers too, which a processor may take for zero.
SPECIAL = (0.0, -0.0, 1e-45, -1e-40, 2e-38, 1.0, -1.0, 1e30, -1e30, LARGE)
scales = st.sampled_from([1e-44, 1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e30, LARGE])
thresholds = st.sampled_from([0.0, 1e-45, 1e-6, 0.1, 1.0, 1e6, 1e30, LARGE])


def lists(elements, length):
  return st.lists(elements, min_size=length, max_size=length).map(np.array)


@st.composite
def tensors(draw, length=LENGTH, scales=scales):
  """Constant, of one sign, of few values, huge, denormal, or all at once."""
  kind = draw(st.sampled_from(["constant", "sign", "few", "any", "special"]))
  x = draw(lists(st.floats(-1, 1, width=32), length)) * draw(scales)
  if kind == "constant":
    x = np.full(length, x[0])
  elif kind == "sign":
    x = abs(x) * draw(st.sampled_from([-1, 1]))
  elif kind == "few":
    x = x[draw(lists(st.integers(0, 1), length)) % length]
  elif kind == "special":
    x = draw(lists(st.sampled_from(SPECIAL), length))
  return x.astype(np.float32)


@st.composite
def codebooks(draw):
  """Sorted levels, some of them perhaps equal, perhaps with padding."""
  count = draw(st.integers(2, LEVELS))
  return make_codebook(draw(tensors(LEVELS)), np.int32(count))


@st.composite
def weights_and_levels(draw):
  """Weights that may be anywhere, at levels, and between two of them."""
  codebook = draw(codebooks())
  own = levels_of(codebook)
  places = np.append(own, own[:-1] / 2 + own[1:] / 2)
  x = draw(tensors())
  there = draw(lists(st.integers(0, 2 * len(places)), LENGTH))
  near = places[np.minimum(there, len(places) - 1)].astype(np.float32)
  return np.where(there < len(places), near, x), codebook


@jax.jit
def make_codebook(centers, count):
  return set_centers(Codebook(jnp.zeros(LEVELS), count), centers)


init = jax.jit(init_codebook, static_argnames=("max_levels", "granularity"))
find, hard = jax.jit(nearest), jax.jit(hard_quantize)
pull = jax.jit(weights_prox, static_argnames="norm")
move = jax.jit(centers_prox, static_argnames=("norm", "method"))


@jax.jit
def soft(x, codebook, cotangent):
  """The soft quantizer's value, and its gradients to weights and levels."""

  def quantize(x, centers):
    return soft_quantize(x, Codebook(centers, codebook.levels))

  value, pullback = jax.vjp(quantize, x, codebook.centers)
  return value, *pullback(cotangent)


def flushed(x):
  """The values in double precision, with denormal numbers set to zero."""
  x = np.asarray(x, np.float64)
  return np.where(abs(x) < TINY, 0.0, x)


def levels_of(codebook):
  return flushed(codebook.centers)[: int(codebook.levels)]


@pytest.mark.parametrize("length", [1, LENGTH])
def test_first_levels_are_distinct_and_sorted(length):
  @given(tensors(length), st.integers(1, 8))
  @few
  def check(x, bits):
    own = levels_of(init(x, bits, max_levels=256))
    assert len(own) == 2**bits and np.isfinite(own).all()
    assert np.all(np.diff(own) > 0)

  check()


@given(tensors(), tensors(), st.integers(1, 8))
@few
def test_a_channel_has_levels_of_its_own_whatever_the_others_hold(a, b, bits):
  both = init(np.stack([a, b], 1), bits, max_levels=256, granularity="channel")
  for i, x in enumerate((a, b)):
    alone = init(x, bits, max_levels=256)
    size = abs(flushed(alone.centers)).max()
    np.testing.assert_allclose(
      both.centers[i], alone.centers, rtol=1e-5, atol=4 * EPS * size + TINY
    )


@given(weights_and_levels())
@few
def test_quantizing_takes_a_nearest_level_and_is_idempotent(drawn):
  x, codebook = drawn
  own, q = levels_of(codebook), hard(x, codebook)
  assert np.isin(flushed(q), own).all()
  np.testing.assert_array_equal(flushed(hard(q, codebook)), flushed(q))
  distance = abs(flushed(x)[:, None] - own).min(axis=1)
  # A border between levels is only as exact as float32 allows.
  slack = 2 * EPS * abs(own).max() + TINY
  assert np.all(abs(flushed(x) - flushed(q)) <= distance + slack)


@given(
  st.integers(-8, 8),
  st.integers(1, 6),
  st.sampled_from([1e-30, 1e-6, 1, 1e30]),
  st.integers(2, LEVELS),
)
@few
def test_a_weight_between_two_levels_goes_to_the_lower(
  lowest, gap, unit, count
):
  # Powers of two keep borders exact.
  unit = 2.0 ** np.round(np.log2(unit))
  centers = (lowest + gap * np.arange(LEVELS)) * unit
  codebook = make_codebook(centers.astype(np.float32), np.int32(count))
  own = levels_of(codebook)
  between = ((own[1:] + own[:-1]) / 2).astype(np.float32)
  x = np.resize(between, LENGTH)
  index = np.resize(np.arange(count - 1), LENGTH)
  np.testing.assert_array_equal(find(x, codebook), index)
  np.testing.assert_array_equal(hard(x, codebook), own[index])


# Many weights take another code path.
@pytest.mark.parametrize("copies", [1, 500])
def test_soft_values_lie_between_the_levels_and_gradients_are_finite(copies):
  @given(weights_and_levels(), tensors(LENGTH, st.just(1.0)))
  @few
  def check(drawn, cotangent):
    x, codebook = drawn
    x = np.tile(x, copies)
    cotangent = np.tile(np.clip(cotangent, -1, 1), copies)
    value, to_x, to_levels = soft(x, codebook, cotangent)
    own = levels_of(codebook)
    slack = 1e-3 * (own[-1] - own[0]) + 8 * EPS * abs(own).max() + TINY
    assert np.all(value >= own[0] - slack)
    assert np.all(value <= own[-1] + slack)
    assert np.isfinite(to_x).all()
    assert np.isfinite(to_levels).all()

  check()


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_weights_move_towards_their_level_and_never_beyond(norm):
  @given(weights_and_levels(), thresholds)
  @few
  def check(drawn, threshold):
    y, codebook = drawn
    x = np.asarray(pull(y, codebook, threshold, norm=norm), np.float64)
    q, y = flushed(hard(y, codebook)), flushed(y)
    slack = 2 * EPS * np.maximum(abs(y), abs(q)) + TINY
    assert np.all(x >= np.minimum(y, q) - slack)
    assert np.all(x <= np.maximum(y, q) + slack)
    if norm == "l1":
      assert np.all(abs(x - y) <= threshold * (1 + EPS) + slack)
    there = abs(y - q) <= threshold if norm == "l1" else threshold >= 1e30
    assert np.all(~np.asarray(there) | (abs(x - q) <= slack))

  check()


@pytest.mark.parametrize(
  ("norm", "method"),
  [("l1", "exact"), ("l1", "subgradient"), ("l2", "exact")],
)
def test_levels_move_towards_their_weights_and_others_stay(norm, method):
  # The total pull of a level's weights must be finite.
  most = LARGE / LENGTH

  @given(weights_and_levels(), tensors(LEVELS), thresholds)
  @few
  def check(drawn, mu, threshold):
    x, codebook = drawn
    x, mu = np.clip(x, -most, most), np.clip(mu, -most, most)
    threshold = min(threshold, most)
    moved = move(mu, x, codebook, threshold, norm=norm, method=method)
    moved = np.asarray(moved, np.float64)
    index, count = np.asarray(find(x, codebook)), int(codebook.levels)
    np.testing.assert_array_equal(flushed(moved[count:]), flushed(mu[count:]))
    if method == "subgradient":
      assert np.isfinite(moved).all()
      return
    for k in range(count):
      members = np.append(flushed(x[index == k]), flushed(mu[k]))
      slack = 4 * EPS * abs(members).max() + TINY
      if norm == "l1":
        slack += 1.1e-4 * threshold * len(members)
      assert members.min() - slack <= moved[k] <= members.max() + slack

  check()


@jax.jit
def train(x, bits, rate):
  """Two alternating steps of a quantized tensor; everything that they leave."""
  steps = training_steps.make_alternating(
    optimizers.base_optimizer("adam"), optimizers.base_optimizer("sgd")
  )
  params = {"kernel": x}
  book = init_codebook(x, bits, 4)
  learner = steps.init(params, {}, {"kernel": book})

  def objective(params, stats):
    scores = jnp.tanh(params["kernel"]) + jnp.arange(x.size)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      scores, jnp.int32(0)
    ), stats

  for _ in range(2):
    rates = alternating.Rates(rate, rate, jnp.float32(0.1))
    learner, loss = steps.step(learner, objective, rates)
  return learner, loss


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, LENGTH])
def test_training_any_tensor_stays_finite(length):
  moderate = st.sampled_from([1e-44, 1e-20, 1e-3, 1.0, 1e3])

  @given(tensors(length, moderate), st.sampled_from([1, 2, 32]))
  @few
  def check(x, bits):
    learner, loss = train(np.clip(x, -1e3, 1e3), bits, 0.1)
    for leaf in jax.tree.leaves((learner, loss)):
      assert np.isfinite(leaf).all()

  check()


ROOM = 41


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_batches_are_of_own_samples_for_any_number_of_them(batch_size):
  """None, one, fewer than a batch, exactly some batches, and a remainder."""
  steps = 5

  def draw(room):
    nothing = Split(None, jnp.int32(0), jnp.int32(0), 0)

    @jax.jit
    def drawn(count, seed):
      part = Split(None, jnp.int32(0), count, room)
      data = ClientData(None, jnp.int32(0), part, nothing, nothing, "none")
      return data.draw(jax.random.key(seed), steps, batch_size)

    return drawn

  in_room, in_more = draw(ROOM), draw(3 * ROOM)

  @given(st.integers(1, ROOM), st.integers(0, 2**31 - 1))
  @few
  def check(count, seed):
    positions = np.asarray(in_room(np.int32(count), seed))
    assert positions.min() >= 0 and positions.max() < count
    np.testing.assert_array_equal(positions, in_more(np.int32(count), seed))
    per_epoch = count // batch_size
    for first in range(0, steps, max(per_epoch, 1)):
      epoch = positions[first : first + per_epoch].ravel()
      assert len(set(epoch)) == len(epoch)

  check()


# One sample; less than a batch, of one class; exactly one batch, of one class;
# exactly two batches; one sample more than a batch, with constant inputs.
COUNTS = (1, 5, tiny.BATCH, 2 * tiny.BATCH, tiny.BATCH + 1)
OF_ONE_CLASS, CONSTANT = (1, 2), 4


def edge_federation():
  federation = tiny.make_federation(COUNTS)
  pool = federation.source
  inputs, labels = np.array(pool.inputs), np.array(pool.labels)
  begins = np.cumsum([0, *(count + 20 for count in COUNTS)])
  for i in OF_ONE_CLASS:
    labels[begins[i] : begins[i + 1]] = 2
  inputs[begins[CONSTANT] : begins[CONSTANT] + COUNTS[CONSTANT]] = 0.5
  source = dataclasses.replace(pool, inputs=inputs, labels=labels)
  return dataclasses.replace(federation, source=source)


# Methods that count labels, hold samples out, or normalise; all in long runs.
CHOSEN = (
  "fd",
  "quped",
  *(pytest.param(name, marks=pytest.mark.slow) for name in ("fedbn", "fedgen")),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.METHODS if LONG else CHOSEN)
def test_clients_of_one_sample_or_class_train_beside_others(name):
  bits = (32,) if tiny.CASES[name].bits == (32,) else (1, 32)
  made = tiny.make_settings(name, len(COUNTS), rounds=2, steps=3, bits=bits)
  result = qj.run(
    made,
    federation=edge_federation(),
    display=qj.Display(quiet=True),
  )
  assert all(np.isfinite(record["loss"]) for record in result.history)
  chex.assert_tree_all_finite((result.state.server, result.state.clients))
  primary_variant = result.summary["primary_variant"]
  for row in result.clients:
    assert 0 <= row[primary_variant] <= 1


@pytest.mark.slow
def test_a_clients_model_does_not_depend_on_the_samples_of_others():
  kernels = []
  for counts in (COUNTS[:2], (*COUNTS[:2], 64)):
    made = tiny.make_settings("local", len(counts), rounds=2, bits=(1,))
    result = qj.run(
      made,
      federation=tiny.make_federation(counts),
      display=qj.Display(quiet=True),
    )
    learner = qj.client_state(result.state, 0)
    kernels.append(learner.params["hidden_1"]["kernel"])
  np.testing.assert_allclose(*kernels, rtol=1e-5, atol=1e-6)
