"""Steps in weights and levels by turns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quped_jax.methods.blocks.losses import cross_entropy
from quped_jax.quantization.alternating import (
  Rates,
  deployed,
  freeze,
)
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.codebook_tree import (
  full_precision,
  hard_quantize_tree,
  in_program,
  init_codebooks,
)
from quped_jax.quantization.optimizers import base_optimizer
from quped_jax.quantization.soft_quantizer import soft_quantize_tree
from quped_jax.quantization.training_steps import make_alternating
from quped_jax.quantization.views import add_loss
from tests.quantization.learners import (
  INPUTS,
  LABELS,
  QUANTIZED,
  RATES,
  jit_step,
  leaves_close,
  make,
  make_codebooks,
  make_learner,
  make_params,
  objective,
  penalty,
  taught,
)


def levels_of(codebooks):
  """The valid levels of each quantized layer, as plain arrays."""
  return {
    name: np.asarray(codebooks[name]["kernel"].centers)[
      : int(codebooks[name]["kernel"].levels)
    ]
    for name in QUANTIZED
  }


def assign(x, levels):
  return np.argmin(np.abs(np.asarray(x)[..., None] - levels), axis=-1)


def quantize(params, levels, estimator, slopes, indices):
  """Q~ or Q of the quantized layers."""
  params = dict(params)
  for name in QUANTIZED:
    x, c = params[name]["kernel"], levels[name]
    if estimator == "hard":
      x = jnp.asarray(c)[indices[name]]
    else:
      x = c[0] + sum(
        (high - low) * jax.nn.sigmoid(slopes[name] * (x - (low + high) / 2))
        for low, high in zip(c[:-1], c[1:], strict=True)
      )
    params[name] = {"kernel": x}
  return params


def prox_of_weights(y, levels, t, norm):
  y = np.asarray(y, np.float64)
  q = np.asarray(levels, np.float64)[assign(y, levels)]
  if norm == "l2":
    return (y + 2 * t * q) / (1 + 2 * t)
  return q + np.sign(y - q) * np.maximum(np.abs(y - q) - t, 0)


def prox_of_levels(mu, old, x, t, norm, method):
  x = np.asarray(x, np.float64).ravel()
  index = assign(x, old)
  new = []
  for k, m in enumerate(np.asarray(mu, np.float64)):
    members = x[index == k]
    n = len(members)
    if norm == "l2":
      new.append((m + 2 * t * np.sum(members)) / (1 + 2 * t * n))
    elif method == "subgradient":
      new.append(m + t * np.sum(np.sign(members - old[k])))
    else:
      # The median of the weights and of the points where net pulls of n - 2j
      # lead.
      ends = m + t * (n - 2 * np.arange(n + 1.0))
      new.append(np.median(np.concatenate([members, ends])))
  return np.sort(new)


def reference_step(
  learner, fn, extra, estimator, sharpness, unit, norm, method
):
  """(params, levels, stats, quantized stats, loss) after one step."""
  levels = levels_of(learner.codebooks)
  slopes = {
    name: sharpness
    if unit == "absolute"
    else sharpness * (len(c) - 1) / (c[-1] - c[0])
    for name, c in levels.items()
  }

  def indices(params):
    return {n: assign(params[n]["kernel"], levels[n]) for n in QUANTIZED}

  def quantized_loss(params, levels, indices):
    q = quantize(params, levels, estimator, slopes, indices)
    loss = fn(q, learner.quantized_stats)[0]
    return loss if extra is None else loss + extra(q)

  x, old = learner.params, indices(learner.params)
  g = jax.grad(lambda x: fn(x, learner.stats)[0])(x)
  if estimator == "soft":
    more = jax.grad(lambda x: quantized_loss(x, levels, old))(x)
    g = jax.tree.map(jnp.add, g, more)
  elif extra is not None:
    # Nothing but the penalty of what is not quantized.
    g["first"] = jax.tree.map(jnp.add, g["first"], jax.grad(extra)(x)["first"])
  new = jax.tree.map(lambda x, g: x - RATES.learning_rate * g, x, g)
  t = RATES.learning_rate * RATES.strength
  for name in QUANTIZED:
    moved = prox_of_weights(new[name]["kernel"], levels[name], t, norm)
    new[name] = {"kernel": jnp.asarray(moved, jnp.float32)}
  h = jax.grad(lambda c: quantized_loss(new, c, indices(new)))(levels)
  t = RATES.centers_learning_rate * RATES.strength
  new_levels = {
    name: prox_of_levels(
      c - RATES.centers_learning_rate * np.asarray(h[name]),
      c,
      new[name]["kernel"],
      t,
      norm,
      method,
    )
    for name, c in levels.items()
  }
  loss, stats = fn(x, learner.stats)
  q = quantize(x, levels, estimator, slopes, old)
  return new, new_levels, stats, fn(q, learner.quantized_stats)[1], loss


@pytest.mark.parametrize(
  ("fn", "extra", "options"),
  [
    (objective, None, {}),
    (objective, None, {"estimator": "hard"}),
    (taught, None, {"center_prox": "subgradient", "sharpness": 3.0}),
    (taught, None, {"estimator": "hard", "norm": "l2"}),
    (objective, penalty, {"sharpness_unit": "absolute", "sharpness": 2.0}),
    (taught, penalty, {"norm": "l2", "sharpness": 5.0}),
    (taught, penalty, {"estimator": "hard"}),
  ],
)
def test_a_step_is_the_algorithm_written_out(fn, extra, options):
  alternating = make(**options)
  step = jit_step(alternating, fn, extra)
  learner = make_learner(alternating)
  for _ in range(2):
    params, levels, stats, quantized_stats, loss = reference_step(
      learner,
      fn,
      extra,
      options.get("estimator", "soft"),
      options.get("sharpness", 10.0),
      options.get("sharpness_unit", "gap"),
      options.get("norm", "l1"),
      options.get("center_prox", "exact"),
    )
    before = levels_of(learner.codebooks)
    learner, got_loss = step(learner, RATES)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    leaves_close(learner.params, params)
    after = levels_of(learner.codebooks)
    for name in QUANTIZED:
      # Exact l1 is found to 1e-4 of a bracket of at most t * weights.
      np.testing.assert_allclose(after[name], levels[name], atol=4e-5)
      assert np.max(np.abs(after[name] - before[name])) > 1e-3
    leaves_close(learner.stats, stats)
    leaves_close(learner.quantized_stats, quantized_stats)
    last = learner.codebooks["last"]["kernel"].centers
    np.testing.assert_array_equal(last[2:], last[1])


@pytest.mark.parametrize("extra", [None, penalty])
@pytest.mark.parametrize("estimator", ["soft", "hard"])
def test_32_bits_in_a_quantized_tree_are_plain_sgd(estimator, extra):
  alternating = make(estimator=estimator)
  step = jit_step(alternating, taught, extra)
  learner = make_learner(alternating, bits=32)
  plain, stats = learner.params, learner.stats
  start = learner.codebooks

  @jax.jit
  def sgd(params, stats):
    def loss_fn(params):
      loss, new = taught(params, stats)
      return loss + (0.0 if extra is None else extra(params)), (loss, new)

    grads, aux = jax.grad(loss_fn, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), aux

  for _ in range(4):
    plain, (want, stats) = sgd(plain, stats)
    learner, loss = step(learner, RATES)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
  leaves_close(learner.params, plain)
  leaves_close(learner.stats, stats)
  chex.assert_trees_all_equal(learner.codebooks, start)


def test_a_statically_full_precision_tree_is_plain_sgd_too():
  alternating = make()
  step = jit_step(alternating)
  codebooks = full_precision(make_params())
  learner = make_learner(alternating, codebooks=codebooks)
  mixed = make_learner(alternating, bits=32)
  for _ in range(3):
    learner, loss = step(learner, RATES)
    mixed, mixed_loss = step(mixed, RATES)
    np.testing.assert_allclose(loss, mixed_loss, rtol=1e-6)
  leaves_close(learner.params, mixed.params)
  assert learner.quantized_stats is None


@pytest.mark.slow
def test_with_the_hard_estimator_a_bias_moves_by_the_gradient_at_x_alone():
  """Not by that of the quantized model, which is nearly the same again."""
  hard = make_alternating(optax.sgd(0.1), optax.sgd(1e-3), estimator="hard")
  params = {
    "kernel": jax.random.normal(jax.random.key(5), (6, 3)),
    "bias": jnp.zeros(3),
  }

  def dense(params, stats):
    logits = INPUTS @ params["kernel"] + params["bias"][None]
    return cross_entropy(logits, LABELS), stats

  codebooks = init_codebooks(params, lambda name: name == "kernel", 1)
  learner = hard.init(params, {}, codebooks)
  stepped, _ = hard.step(learner, dense, RATES._replace(strength=0.0))
  grads = jax.grad(dense, has_aux=True)(params, {})[0]
  for name in params:
    np.testing.assert_allclose(
      stepped.params[name], params[name] - 0.1 * grads[name], atol=1e-7
    )
  # The levels follow the quantized model.
  before, after = (x.codebooks["kernel"].centers for x in (learner, stepped))
  assert np.all(np.abs(after - before) > 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  "estimator", ["soft", pytest.param("hard", marks=pytest.mark.long)]
)
def test_a_step_takes_as_many_gradients_as_it_says(estimator):
  alternating = make(estimator=estimator)
  backward = []

  @jax.custom_vjp
  def counted(params, stats):
    return objective(params, stats)

  def forward(params, stats):
    return jax.vjp(objective, params, stats)

  def pull_back(residuals, cotangents):
    backward.append(None)
    return residuals(cotangents)

  counted.defvjp(forward, pull_back)
  learner = make_learner(alternating)
  got, _ = alternating.step(learner, counted, RATES)
  assert len(backward) == alternating.gradients
  want, _ = alternating.step(learner, objective, RATES)
  leaves_close(got, want)


def test_each_step_traces_only_the_passes_that_it_needs():
  alternating = make()
  calls = []

  def counted(params, stats):
    calls.append(None)
    return objective(params, stats)

  def passes(learner):
    calls.clear()
    new, _ = jax.eval_shape(
      lambda learner: alternating.step(learner, counted, RATES), learner
    )
    assert jax.tree.structure(new) == jax.tree.structure(learner)
    return len(calls)

  full = make_learner(alternating, codebooks=full_precision(make_params()))
  quantized = make_learner(alternating)
  assert passes(full) == 1
  assert passes(quantized) == 3
  assert passes(freeze(quantized)) == 1


def test_learners_of_mixed_precision_step_together():
  alternating = make()
  bits = jnp.array([1, 2, 32])

  @jax.jit
  @jax.vmap
  def start(key, bits):
    params = make_params(key)
    codebooks = make_codebooks(params, bits)
    return make_learner(alternating, key=key, codebooks=codebooks)

  step = jit_step(alternating)
  together = start(jnp.arange(3), bits)
  rates = Rates(
    jnp.array([0.1, 0.2, 0.3]), jnp.full(3, 0.05), jnp.ones(3) * 0.3
  )
  stepped, losses = jax.jit(jax.vmap(step))(together, rates)
  for i in range(3):
    alone, rate = jax.tree.map(lambda x, i=i: x[i], (together, rates))
    want, loss = step(alone, rate)
    np.testing.assert_allclose(losses[i], loss, rtol=1e-5)
    leaves_close(jax.tree.map(lambda x, i=i: x[i], stepped), want, atol=4e-5)


def test_training_improves_the_deployed_model():
  alternating = make_alternating(base_optimizer("adam"), base_optimizer("sgd"))
  learner = make_learner(alternating)

  def loss_of(learner):
    return objective(deployed(learner)[0], learner.quantized_stats)[0]

  @jax.jit
  def run(learner, rates):
    return jax.lax.scan(
      lambda s, _: alternating.step(s, objective, rates), learner, length=200
    )

  trained, losses = run(learner, Rates(0.02, 0.01, 0.1))
  assert losses[-1] < losses[0] / 2
  assert loss_of(trained) < loss_of(learner) / 2
  fine, fine_losses = run(freeze(trained), Rates(0.002, 0.01, 0.1))
  np.testing.assert_allclose(fine_losses[0], loss_of(trained), rtol=1e-3)
  assert loss_of(fine) < loss_of(trained)


@pytest.mark.parametrize("estimator", ["soft", "hard"])
def test_views_are_the_models_whose_losses_count(estimator):
  alternating = make(estimator=estimator, sharpness=4.0)
  learner = make_learner(alternating)
  at_x, quantized = alternating.views(learner)
  assert at_x == (learner.params, learner.stats, True, True)
  if estimator == "hard":
    want = hard_quantize_tree(learner.params, learner.codebooks)
  else:
    want = soft_quantize_tree(learner.params, learner.codebooks, 4.0)
  leaves_close(quantized.params, want)
  assert quantized.stats is learner.quantized_stats
  assert bool(quantized.counts)
  one, ten = jnp.ones(()), jnp.float32(10.0)
  assert add_loss(at_x, one, ten) == add_loss(quantized, one, ten) == 11.0

  frozen = freeze(learner)
  (view,) = alternating.views(frozen)
  assert view == (frozen.params, frozen.quantized_stats, True, True)

  mixed = make_learner(alternating, bits=32)
  _, quantized = alternating.views(mixed)
  assert not quantized.counts
  assert add_loss(quantized, one, ten) == 1.0

  full = make_learner(alternating, codebooks=full_precision(make_params()))
  (view,) = alternating.views(full)
  assert view == (full.params, full.stats, True, True)


def test_init_starts_both_statistics_alike():
  stats = {"mean": jnp.ones(5)}
  params = make_params()
  learner = make().init(params, stats, make_codebooks(params))
  assert learner.stats is learner.quantized_stats is stats
  assert learner.assignments is None
  full = make().init(params, stats, full_precision(params))
  assert full.quantized_stats is None


def test_optimizers_of_fixed_step_size_are_taken_too():
  """Optax's own optimizers, which know none of the extra arguments."""
  fixed = make_alternating(optax.sgd(0.1), optax.sgd(0.05))
  learner, _ = jit_step(fixed)(make_learner(fixed), RATES)
  given = make()
  want, _ = jit_step(given)(make_learner(given), RATES)
  leaves_close(learner.params, want.params)
  leaves_close(learner.codebooks, want.codebooks, atol=4e-5)


def test_unsorted_levels_are_sorted_after_a_step_of_the_first_phase():
  alternating = make()
  learner = make_learner(alternating)
  rates = RATES._replace(centers_learning_rate=200.0, strength=0.0)
  stepped, _ = jit_step(alternating)(learner, rates)
  for name in QUANTIZED:
    codebook = stepped.codebooks[name]["kernel"]
    assert isinstance(codebook, Codebook)
    assert np.all(np.diff(codebook.centers) >= 0)
  moved = (
    stepped.codebooks["hidden"]["kernel"].centers
    - learner.codebooks["hidden"]["kernel"].centers
  )
  assert np.max(np.abs(moved)) > 1.0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"estimator": "st"},
      "estimator='st': must be one of soft, hard, ste, lsq",
    ),
    ({"sharpness": 0.0}, r"sharpness=0\.0: must be positive"),
    (
      {"sharpness_unit": "mean"},
      "sharpness_unit='mean': must be one of gap, absolute",
    ),
    ({"norm": "l0"}, "norm='l0': must be one of l1, l2"),
    (
      {"center_prox": "sort"},
      "center_prox='sort': must be one of exact, subgradient",
    ),
  ],
)
def test_errors_name_the_field_and_its_value(options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


@pytest.mark.slow
@pytest.mark.parametrize("static", [{"mixed": True}, {"most": 4}])
def test_a_step_leaves_what_is_static_of_codebooks_as_it_was(static):
  alternating = make()
  learner = make_learner(alternating, max_levels=8)
  marked = in_program(
    learner.codebooks, **{"most": None, "mixed": False} | static
  )

  def step(learner, _):
    return alternating.step(learner, objective, RATES)

  steps = jax.jit(lambda learner: jax.lax.scan(step, learner, None, 2))
  after, losses = steps(learner._replace(codebooks=marked))
  assert jax.tree.structure(after.codebooks) == jax.tree.structure(marked)
  _, want = steps(learner)
  np.testing.assert_allclose(losses, want, rtol=1e-5)


def test_fewer_levels_than_learners_have_are_refused():
  with pytest.raises(ValueError, match="most=-1: must be at least 0"):
    make(most=-1)
  with pytest.raises(ValueError, match="most=2: must be at least 4"):
    make_learner(make(most=2))
