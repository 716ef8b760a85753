"""Local steps: those that count, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps
from tests import tiny

TRAINING = make_training(qj.Settings(steps=5, batch_size=4))
DATA = tiny.make_federation((9,)).client(0)
CONTEXT = api.Context(0, jax.random.key(3), 0, None, None, None)


def step(carry, batch):
  """Counts steps and sums what they see."""
  number, total = carry
  seen = jnp.sum(batch.inputs)
  metrics = {"seen": seen, "number": number, "late": number > 0}
  return (number + 1, total + seen), metrics


def run(num_steps, **options):
  context = CONTEXT._replace(num_steps=num_steps)
  return local_steps.run(
    step, (jnp.float32(0), jnp.float32(0)), DATA, context, TRAINING, **options
  )


def seen_by(steps):
  """What each of all steps sees."""
  totals = [float(run(None, steps=n)[0][1]) for n in range(1, steps + 1)]
  return np.diff(totals, prepend=0.0)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_fewer_steps_are_the_first_ones_and_so_are_their_metrics(count):
  seen = seen_by(5)
  (number, total), metrics = jax.jit(run)(jnp.int32(count))
  assert number == count
  np.testing.assert_allclose(total, sum(seen[:count]), rtol=1e-5)
  np.testing.assert_allclose(metrics["seen"], np.mean(seen[:count]), rtol=1e-5)
  np.testing.assert_allclose(metrics["number"], (count - 1) / 2)
  np.testing.assert_allclose(metrics["late"], (count - 1) / count)


def test_where_all_count_it_is_the_same_as_where_nobody_counts():
  all_count, same = run(jnp.int32(5)), run(None)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), all_count, same
  )


def test_there_are_no_more_steps_than_there_are():
  (number, _), _ = run(jnp.int32(9))
  assert number == 5
  (number, _), metrics = run(jnp.int32(-2))
  assert number == 0 and metrics["seen"] == metrics["number"] == 0


def test_clients_that_run_at_once_take_each_its_own():
  counts = jnp.array([1, 4, 0, 5])
  (numbers, totals), metrics = jax.vmap(run)(counts)
  for i, count in enumerate(counts):
    (number, total), alone = run(count)
    assert numbers[i] == number == count
    np.testing.assert_allclose(totals[i], total, rtol=1e-6)
    np.testing.assert_allclose(metrics["seen"][i], alone["seen"], rtol=1e-6)


def test_a_step_after_the_last_that_counts_is_not_computed():
  """Where it were, a NaN of it would be in the metrics."""

  def breaks(carry, batch):
    del batch
    return carry + 1, {"loss": jnp.where(carry < 2, 1.0, jnp.nan)}

  context = CONTEXT._replace(num_steps=jnp.int32(2))
  carry, metrics = local_steps.run(
    breaks, jnp.int32(0), DATA, context, TRAINING
  )
  assert carry == 2 and metrics["loss"] == 1
