"""In the fine-tuning phase levels train, with frozen assignments."""

import chex
import jax
import numpy as np
import optax
import pytest

from quped_jax.quantization.alternating import (
  deployed,
  freeze,
)
from quped_jax.quantization.codebook import nearest
from quped_jax.quantization.codebook_tree import (
  full_precision,
  hard_quantize_tree,
)
from quped_jax.quantization.optimizers import base_optimizer
from quped_jax.quantization.training_steps import make_alternating
from tests.quantization.learners import (
  QUANTIZED,
  RATES,
  jit_step,
  leaves_close,
  make,
  make_learner,
  make_params,
  objective,
  penalty,
  taught,
)


def frozen_index(learner, name):
  return np.asarray(learner.assignments[name]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_freeze_quantizes_and_keeps_the_indices(bits):
  alternating = make()
  learner = make_learner(alternating, bits, max_levels=2**bits)
  frozen = freeze(learner)
  assert frozen.assignments["first"]["kernel"] == optax.MaskedNode()
  for name in QUANTIZED:
    codebook = learner.codebooks[name]["kernel"]
    want = nearest(learner.params[name]["kernel"], codebook)
    index = frozen_index(frozen, name)
    assert index.dtype == np.uint8
    np.testing.assert_array_equal(index, want)
    if bits > 1:
      assert index.max() == 2**bits - 1
  chex.assert_trees_all_equal(
    frozen.params, hard_quantize_tree(learner.params, learner.codebooks)
  )
  assert freeze(frozen) is frozen


def test_there_is_nothing_to_freeze_in_full_precision():
  alternating = make()
  learner = make_learner(alternating, codebooks=full_precision(make_params()))
  assert freeze(learner) is learner


@pytest.mark.slow
@pytest.mark.parametrize("extra", [None, penalty])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_level_follows_the_summed_gradient_of_its_weights(bits, extra):
  alternating = make()
  learner = freeze(make_learner(alternating, bits, max_levels=2**bits))
  rates = RATES._replace(strength=1e6)  # R is gone, whatever its strength.

  def loss(params):
    value = taught(params, learner.quantized_stats)[0]
    return value if extra is None else value + extra(params)

  grads = jax.grad(loss)(learner.params)
  stepped, value = jit_step(alternating, taught, extra)(learner, rates)
  want, stats = taught(learner.params, learner.quantized_stats)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  leaves_close(stepped.quantized_stats, stats)
  chex.assert_trees_all_equal(stepped.stats, learner.stats)
  chex.assert_trees_all_equal(stepped.assignments, learner.assignments)
  for name in QUANTIZED:
    index = frozen_index(learner, name)
    total = np.zeros(2**bits)
    np.add.at(total, index, np.asarray(grads[name]["kernel"]))
    centers = np.asarray(learner.codebooks[name]["kernel"].centers)
    new = np.asarray(stepped.codebooks[name]["kernel"].centers)
    np.testing.assert_allclose(new, centers - 0.05 * total, atol=2e-6)
    np.testing.assert_array_equal(stepped.params[name]["kernel"], new[index])
    unused = np.setdiff1d(np.arange(2**bits), index)
    np.testing.assert_array_equal(new[unused], centers[unused])
  for part in ("kernel", "bias"):
    np.testing.assert_allclose(
      stepped.params["first"][part],
      learner.params["first"][part] - 0.1 * grads["first"][part],
      atol=2e-6,
    )


@pytest.mark.slow
def test_indices_stay_frozen_over_many_steps():
  momentum = base_optimizer("momentum", weight_decay=0.1)
  alternating = make_alternating(momentum, momentum)
  learner = make_learner(alternating)
  step = jit_step(alternating)
  for _ in range(3):
    learner, _ = step(learner, RATES)
  start = learner = freeze(learner)
  for _ in range(6):
    learner, _ = step(learner, RATES)
  chex.assert_trees_all_equal(learner.assignments, start.assignments)
  for name, count in (("hidden", 4), ("last", 2)):
    x = np.asarray(learner.params[name]["kernel"])
    codebook = learner.codebooks[name]["kernel"]
    assert len(np.unique(x)) <= count
    np.testing.assert_array_equal(
      x, codebook.centers[frozen_index(start, name)]
    )
    assert not np.array_equal(x, start.params[name]["kernel"])
  for part in ("kernel", "bias"):
    moved = learner.params["first"][part] - start.params["first"][part]
    assert np.all(np.abs(moved) > 1e-6)


def test_levels_that_cross_are_not_sorted():
  alternating = make()
  learner = freeze(make_learner(alternating))
  rates = RATES._replace(centers_learning_rate=200.0)
  stepped, _ = jit_step(alternating)(learner, rates)
  crossed = False
  for name in QUANTIZED:
    codebook = stepped.codebooks[name]["kernel"]
    levels = np.asarray(codebook.centers)[: int(codebook.levels)]
    crossed |= bool(np.any(np.diff(levels) < 0))
    np.testing.assert_array_equal(
      stepped.params[name]["kernel"], levels[frozen_index(learner, name)]
    )
  assert crossed
  chex.assert_trees_all_equal(deployed(stepped)[0], stepped.params)


def test_32_bits_train_on_in_the_fine_tuning_phase():
  alternating = make()
  learner = freeze(make_learner(alternating, bits=32))
  chex.assert_trees_all_equal(learner.params, make_params())
  stepped, _ = jit_step(alternating)(learner, RATES)
  grads = jax.grad(lambda p: objective(p, learner.quantized_stats)[0])(
    learner.params
  )
  want = jax.tree.map(lambda p, g: p - 0.1 * g, learner.params, grads)
  leaves_close(stepped.params, want)
  chex.assert_trees_all_equal(stepped.codebooks, learner.codebooks)
