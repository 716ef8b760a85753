import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.quantization.alternating import Rates
from quped_jax.simulation.schedule import Schedule

BASE = Rates(
  jnp.float32(0.1), jnp.float32(0.02), jnp.array([1.0, 3.0], jnp.float32)
)
SHARED = jnp.float32(0.5)


def at(round_, **fields):
  return Schedule(**fields).rates(BASE, SHARED, jnp.int32(round_))


def test_by_default_only_the_strength_changes():
  for round_ in (0, 1, 7):
    rates, shared = at(round_)
    assert rates.learning_rate == BASE.learning_rate
    assert rates.centers_learning_rate == BASE.centers_learning_rate
    assert shared == SHARED
    np.testing.assert_allclose(rates.strength, BASE.strength * (round_ + 1))


def test_the_ramp_can_be_switched_off():
  np.testing.assert_array_equal(
    at(9, strength_ramp=False)[0].strength, BASE.strength
  )


def test_the_decay_is_a_power_of_the_round():
  rates, shared = at(3, learning_rate_decay=0.9)
  np.testing.assert_allclose(rates.learning_rate, 0.1 * 0.9**3, rtol=1e-6)
  np.testing.assert_allclose(shared, 0.5 * 0.9**3, rtol=1e-6)
  assert rates.centers_learning_rate == BASE.centers_learning_rate


@pytest.mark.parametrize(
  ("round_", "drops"), [(0, 0), (2, 0), (3, 1), (4, 1), (5, 2), (9, 2)]
)
def test_rates_drop_with_the_rounds_that_are_named(round_, drops):
  rates, shared = at(
    round_,
    learning_rate_drops=(3, 5),
    learning_rate_drop_factor=0.2,
    strength_drop_factor=10.0,
    strength_ramp=False,
  )
  np.testing.assert_allclose(rates.learning_rate, 0.1 * 0.2**drops, rtol=1e-6)
  np.testing.assert_allclose(shared, 0.5 * 0.2**drops, rtol=1e-6)
  np.testing.assert_allclose(
    rates.strength, BASE.strength * 10**drops, rtol=1e-6
  )
  assert rates.centers_learning_rate == BASE.centers_learning_rate


@pytest.mark.parametrize(("round_", "drops"), [(1, 0), (2, 1), (7, 2)])
def test_levels_drop_with_rounds_of_their_own(round_, drops):
  rates, shared = at(round_, centers_drops=(2, 7), centers_drop_factor=0.5)
  np.testing.assert_allclose(
    rates.centers_learning_rate, 0.02 * 0.5**drops, rtol=1e-6
  )
  assert rates.learning_rate == BASE.learning_rate and shared == SHARED


def test_the_fine_tuning_phase_has_its_own_rate_of_levels():
  fields = {"finetune_at": 4, "finetune_centers_learning_rate": 3e-4}
  before, after = at(3, **fields)[0], at(4, **fields)[0]
  assert before.centers_learning_rate == BASE.centers_learning_rate
  np.testing.assert_allclose(after.centers_learning_rate, 3e-4)
  assert after.learning_rate == BASE.learning_rate


def test_the_round_may_be_traced():
  schedule = Schedule(
    learning_rate_decay=0.9,
    learning_rate_drops=(2,),
    centers_drops=(3,),
    finetune_at=4,
  )
  traced = jax.jit(schedule.rates)
  for round_ in range(6):
    plain = schedule.rates(BASE, SHARED, jnp.int32(round_))
    for x, y in zip(
      jax.tree.leaves(traced(BASE, SHARED, jnp.int32(round_))),
      jax.tree.leaves(plain),
      strict=True,
    ):
      np.testing.assert_allclose(x, y, rtol=1e-6)


def test_progress_is_the_share_of_the_rounds():
  rates, _ = Schedule().rates(BASE, SHARED, jnp.int32(3), jnp.float32(12))
  assert rates.progress == 0.25
  rates, _ = Schedule().rates(BASE, SHARED, jnp.int32(3))
  assert rates.progress is None
