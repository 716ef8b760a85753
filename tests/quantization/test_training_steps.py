"""Training steps: rates, schedules, and whose step size counts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quped_jax as qj
from tests.quantization.learners import make, make_learner, objective


def rate(count):
  return 0.1 / (1 + count)


def strength(count):
  return 0.3 * count


def centers_rate(count):
  return 0.05 + 0.01 * count


@pytest.mark.parametrize(
  "estimator",
  [
    "proxquant",
    pytest.param("soft", marks=pytest.mark.slow),
    pytest.param("lsq", marks=pytest.mark.long),
  ],
)
@pytest.mark.parametrize(
  "frozen", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_rates_are_numbers_or_schedules_of_a_learners_updates(
  estimator, frozen
):
  training = make(estimator=estimator)
  schedules = qj.Rates(rate, centers_rate, strength)
  scheduled = jax.jit(
    lambda learner: training.step(learner, objective, schedules)
  )
  given = jax.jit(
    lambda learner, rates: training.step(learner, objective, rates)
  )
  first = second = make_learner(training)
  if frozen:
    first = second = qj.freeze(first)
  for count in range(3):
    first, loss = scheduled(first)
    numbers = qj.Rates(rate(count), centers_rate(count), strength(count))
    second, same = given(second, numbers)
    np.testing.assert_allclose(loss, same, rtol=1e-6)
  chex.assert_trees_all_close(first, second, rtol=1e-5, atol=1e-6)


def test_optimizers_move_by_their_own_step_sizes_and_rates_scale_the_pull():
  params = {"kernel": jnp.array([-1.0, -0.4, 0.3, 1.0])}
  codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
  training = qj.make_alternating(
    optax.sgd(0.5), optax.sgd(0.0), estimator="proxquant"
  )
  learner = training.init(params, {}, codebooks)

  @jax.jit
  def moved(rates):
    after, _ = training.step(
      learner, lambda params, stats: (jnp.sum(params["kernel"]), stats), rates
    )
    return after.params["kernel"]

  # Without strength rates change nothing: the weights move by their gradient,
  # which is 1, times the optimizer's own step size.
  for number in (0.1, 10.0):
    free = moved(qj.Rates(number, 0.1, 0.0))
    np.testing.assert_allclose(free, params["kernel"] - 0.5, rtol=1e-6)
  pulled = moved(qj.Rates(0.1, 0.1, 2.0))
  want = qj.weights_prox(free, codebooks["kernel"], 0.1 * 2.0)
  np.testing.assert_allclose(pulled, want, rtol=1e-6)
