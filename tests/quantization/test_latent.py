"""Steps of estimators with latent weights."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from quped_jax.quantization.alternating import deployed, freeze
from quped_jax.quantization.codebook_tree import full_precision
from quped_jax.quantization.proximal import weights_prox
from tests.quantization.learners import (
  QUANTIZED,
  RATES,
  leaves_close,
  make,
  make_codebooks,
  make_learner,
  make_params,
  objective,
  penalty,
)

NAMES = ("ste", "lsq", "binaryrelax", "parq", "proxquant")
# Halfway through the annealing.
HALF = RATES._replace(progress=0.375)


@functools.cache
def stepping(name, extra=None):
  """An estimator, and its step as one compiled program."""
  made = make(estimator=name)
  step = jax.jit(
    lambda learner, rates, *more: made.step(
      learner, objective, rates, extra, *more
    )
  )
  return made, step


def begin(name, bits=None, **options):
  return make_learner(stepping(name)[0], bits, **options)


def kernel(tree, name):
  return np.asarray(tree[name]["kernel"], np.float64)


def levels_of(learner, name):
  codebook = learner.codebooks[name]["kernel"]
  return np.asarray(codebook.centers)[: int(codebook.levels)]


def nearest(u, levels):
  return levels[np.argmin(np.abs(u[..., None] - levels), axis=-1)]


def at_half(name, u, levels):
  """m(u) halfway through the annealing, by hand."""
  q = nearest(u, levels)
  if name == "proxquant":
    return u
  if name == "binaryrelax":
    r = 350**0.5
    return (r * q + u) / (1 + r)
  if name == "parq":
    inner = np.searchsorted(levels, u)
    low = levels[np.maximum(inner - 1, 0)]
    high = levels[np.minimum(inner, len(levels) - 1)]
    middle = (low + high) / 2
    return np.clip(middle + (u - middle) / 0.5, low, high)
  return q


def uniform(u, bits):
  mean = np.abs(u).mean()
  return min(bits * mean, np.abs(u).max()) * np.linspace(-1, 1, 2**bits)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    "parq",
    *(pytest.param(x, marks=pytest.mark.slow) for x in NAMES if x != "parq"),
  ],
)
def test_a_step_takes_the_gradient_at_m_of_u_to_u(name):
  learner = begin(name)
  made, step = stepping(name, penalty)
  if name == "lsq":  # From levels that are multiples of a step size.
    learner = stepping(name)[1](learner, HALF._replace(learning_rate=0.0))[0]
    learner = learner._replace(
      params=make_params(), stats=learner.quantized_stats
    )
  at = jax.tree.map(jnp.asarray, make_params())
  for layer in QUANTIZED:
    levels = levels_of(learner, layer)
    at[layer] = {
      "kernel": jnp.float32(at_half(name, kernel(at, layer), levels))
    }
  trained, stats = made.current(learner, HALF)
  leaves_close(trained, at, atol=1e-5)
  assert stats is learner.quantized_stats
  (view,) = made.views(learner, HALF)
  leaves_close(view.params, at, atol=1e-5)

  def total(params):
    loss, new = objective(params, learner.quantized_stats)
    return loss + penalty(params), (loss, new)

  grads, (want, new_stats) = jax.jit(jax.grad(total, has_aux=True))(at)
  correction = jax.tree.map(lambda x: 0.01 * jnp.cos(x), at)
  after, loss = step(learner, HALF, correction)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  leaves_close(after.stats, new_stats)
  leaves_close(after.quantized_stats, new_stats)
  for layer in at:
    for part, x in learner.params[layer].items():
      moved = grads[layer][part]
      if name == "lsq" and layer in QUANTIZED:
        levels = levels_of(learner, layer)
        moved = jnp.where((levels[0] < x) & (x < levels[-1]), moved, 0.0)
      y = x - 0.1 * (moved + correction[layer][part])
      if name == "proxquant" and layer in QUANTIZED:
        y = weights_prox(y, learner.codebooks[layer]["kernel"], 0.1 * 0.3)
      np.testing.assert_allclose(after.params[layer][part], y, atol=5e-6)
  for layer, bits in (("hidden", 2), ("last", 1)):
    levels = levels_of(after, layer)
    u = kernel(after.params, layer)
    if name == "proxquant":
      np.testing.assert_array_equal(levels, levels_of(learner, layer))
    elif name != "lsq":
      np.testing.assert_allclose(levels, uniform(u, bits), rtol=1e-5)
    q, _ = deployed(after)
    np.testing.assert_allclose(kernel(q, layer), nearest(u, levels), atol=1e-6)


@pytest.mark.slow
def test_lsq_moves_levels_by_the_gradient_of_their_step_size():
  made, step = stepping("lsq")
  learner, _ = step(begin("lsq"), RATES._replace(learning_rate=0.0))
  u, at = kernel(learner.params, "hidden"), deployed(learner)[0]
  grads = jax.grad(lambda p: objective(p, learner.quantized_stats)[0])(at)
  levels = levels_of(learner, "hidden")
  size = levels[1] - levels[0]
  np.testing.assert_allclose(levels, size * np.arange(-2, 2), atol=1e-6)
  v = u / size
  slope = np.where(v <= -2, -2, np.where(v >= 1, 1, np.round(v) - v))
  to_size = np.sum(kernel(grads, "hidden") * slope) / np.sqrt(u.size)
  after, _ = step(learner, RATES)
  want = (size - 0.05 * to_size) * np.arange(-2, 2)
  np.testing.assert_allclose(levels_of(after, "hidden"), want, atol=1e-5)
  # However far it would go, it stays positive.
  far = RATES._replace(centers_learning_rate=1e3 * np.sign(to_size))
  after, _ = step(learner, far)
  levels = levels_of(after, "hidden")
  assert levels[1] - levels[0] > 0 and made.gradients == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_full_precision_it_is_as_if_there_were_no_codebooks(name):
  _, step = stepping(name)
  mixed = begin(name, 32)
  mixed = mixed._replace(quantized_stats=mixed.stats)
  plain = begin(name, codebooks=full_precision(make_params()))
  at, _ = stepping(name)[0].current(mixed, HALF)
  chex.assert_trees_all_equal(at, mixed.params)
  for _ in range(2):
    mixed, loss = step(mixed, HALF)
    plain, want = step(plain, HALF)
    np.testing.assert_allclose(loss, want, rtol=3e-7)
  # But for how the compiler rounds sums of products.
  chex.assert_trees_all_close(
    (mixed.params, mixed.stats, mixed.quantized_stats),
    (plain.params, plain.stats, plain.stats),
    rtol=3e-7,
    atol=3e-8,
  )
  chex.assert_trees_all_equal(mixed.codebooks, begin(name, 32).codebooks)
  assert plain.quantized_stats is None


@pytest.mark.slow
def test_proxquant_without_strength_trains_as_without_levels():
  _, step = stepping("proxquant")
  free, _ = step(begin("proxquant"), RATES._replace(strength=0.0))
  plain, _ = step(begin("proxquant", 32), RATES)
  leaves_close(free.params, plain.params, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsq", "binaryrelax"])
def test_one_program_for_all_precisions_and_all_of_the_annealing(name):
  made, counted = stepping(name)
  step: Any = counted
  compiled = step._cache_size()
  bits = jnp.array([1, 2, 32])
  rates = qj.Rates(
    jnp.array([0.1, 0.2, 0.3]),
    jnp.full(3, 0.05),
    jnp.full(3, 0.3),
    jnp.array([0.1, 0.5, 0.9]),
  )

  def start(bits):
    params = make_params()
    return make_learner(made, codebooks=make_codebooks(params, bits))

  together = jax.jit(jax.vmap(start))(bits)
  stepped, losses = jax.jit(jax.vmap(step))(together, rates)
  for i in range(3):
    alone, rate = jax.tree.map(lambda x, i=i: x[i], (together, rates))
    want, loss = step(alone, rate)
    np.testing.assert_allclose(losses[i], loss, rtol=1e-5)
    leaves_close(jax.tree.map(lambda x, i=i: x[i], stepped), want, atol=1e-5)
  assert step._cache_size() == compiled + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsq", "ste"])
def test_the_fine_tuning_phase_keeps_the_indices(name):
  made, step = stepping(name)
  learner, _ = step(begin(name), HALF)
  frozen = freeze(learner)
  current, _ = made.current(frozen)
  chex.assert_trees_all_equal(current, deployed(learner)[0])
  after, _ = step(frozen, HALF)
  chex.assert_trees_all_equal(after.assignments, frozen.assignments)
  for layer in QUANTIZED:
    index = np.asarray(frozen.assignments[layer]["kernel"])
    levels = levels_of(after, layer)
    np.testing.assert_array_equal(after.params[layer]["kernel"], levels[index])
    assert np.any(levels != levels_of(frozen, layer))
    if name == "lsq" and layer == "hidden":
      size = levels[1] - levels[0]
      np.testing.assert_allclose(levels, size * np.arange(-2, 2), atol=1e-6)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(after.params["first"], frozen.params["first"])


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [pytest.param("lsq", marks=pytest.mark.long), "parq"]
)
def test_channels_train_apart(name):
  """A matrix with a codebook per channel, and its columns one by one."""
  made = make(estimator=name)
  rule = {"lsq": "lsq", "proxquant": "range"}.get(name, "uniform")
  x = jax.random.normal(jax.random.key(0), (12, 3))
  target = jax.random.normal(jax.random.key(1), (12, 3))

  def run(x, target, granularity):
    codebooks = qj.init_codebooks(
      {"x": x},
      lambda _: True,
      2,
      granularity=granularity,
      initial_levels=rule,
    )

    def fn(params, stats):
      return jnp.sum((params["x"] - target) ** 2), stats

    learner = made.init({"x": x}, {}, codebooks)
    for _ in range(2):
      learner, _ = made.step(learner, fn, HALF)
    return learner.params["x"], learner.codebooks["x"].centers

  got = jax.jit(run, static_argnums=2)(x, target, "channel")
  want = jax.vmap(
    lambda x, t: run(x, t, "tensor"), in_axes=(1, 1), out_axes=(1, 0)
  )(x, target)
  leaves_close(got, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsq", "parq"])
def test_training_improves_the_deployed_model(name):
  adam: Any = optax.adam(0.02)
  made = qj.make_alternating(adam, optax.sgd(0.01), estimator=name)
  learner = make_learner(made)

  def loss_of(learner):
    return objective(deployed(learner)[0], learner.quantized_stats)[0]

  @jax.jit
  def run(learner):
    def step(learner, progress):
      rates = RATES._replace(progress=progress, learning_rate=0.02)
      return made.step(learner, objective, rates)

    return jax.lax.scan(step, learner, jnp.linspace(0, 1, 200))[0]

  assert loss_of(run(learner)) < 0.6 * loss_of(learner)


def test_a_step_runs_the_model_once():
  calls = []

  def counted(params, stats):
    calls.append(None)
    return objective(params, stats)

  made, _ = stepping("ste")
  learner = begin("ste")
  new, _ = jax.eval_shape(lambda x: made.step(x, counted, HALF), learner)
  assert jax.tree.structure(new) == jax.tree.structure(learner)
  assert len(calls) == made.gradients == 1


def test_without_room_for_levels_weights_are_themselves():
  made = make(estimator="parq", most=0)
  learner = make_learner(make(estimator="parq"), 32)
  trained, _ = made.current(learner, HALF)
  assert trained["hidden"]["kernel"] is learner.params["hidden"]["kernel"]


def test_levels_by_other_rules_stay():
  for rule in ("range", "kmeans"):
    made = make(estimator="ste", levels=rule)
    learner = make_learner(made)
    after, _ = jax.jit(lambda x, m=made: m.step(x, objective, RATES))(learner)
    chex.assert_trees_all_equal(after.codebooks, learner.codebooks)


def test_annealing_needs_to_know_how_far_training_is():
  for name in ("parq", "binaryrelax"):
    made, _ = stepping(name)
    message = "rates.progress=None: must be the share of the training"
    with pytest.raises(ValueError, match=message):
      made.step(begin(name), objective, RATES)
  with pytest.raises(ValueError, match="levels='mean': must be one of range"):
    make(estimator="ste", levels="mean")
