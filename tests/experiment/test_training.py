import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_schedule, make_training


def test_the_schedule_has_the_settings_own_fields():
  settings = qj.Settings(finetune_at=7, learning_rate_decay=0.5)
  schedule = make_schedule(settings)
  assert schedule.finetune_at == 7 and schedule.learning_rate_decay == 0.5
  for field in dataclasses.fields(schedule):
    default = getattr(qj.Settings(), field.name)
    assert getattr(type(schedule)(), field.name) == default


@pytest.mark.parametrize(
  ("changes", "bits", "max_levels"),
  [
    ({"bits": (1,)}, None, 2),
    ({"bits": (32, 3), "learning_rate": (0.1,)}, None, 8),
    ({"bits": (32,)}, None, None),
    ({"bits": (4,)}, (32, 32), None),
    ({"bits": (32, 4)}, (32, 2), 4),
    ({"client_types": "1*mlp@5, 39*mlp@32"}, None, 32),
  ],
)
def test_codebooks_hold_the_precisions_that_there_are(
  changes, bits, max_levels
):
  training = make_training(qj.Settings(**changes), bits)
  assert training.max_levels == max_levels
  assert training.gradients_per_step == (1 if max_levels is None else 3)


@pytest.mark.parametrize(
  ("estimator", "bits", "gradients"),
  [("hard", 1, 2), ("hard", 32, 1), ("parq", 1, 1), ("lsq", 2, 1)],
)
def test_other_estimators_take_fewer_gradients(estimator, bits, gradients):
  settings = qj.Settings(estimator=estimator, bits=(bits,))
  assert make_training(settings).gradients_per_step == gradients


@pytest.mark.parametrize(
  ("changes", "rule"),
  [
    ({}, "range"),
    ({"estimator": "ste"}, "uniform"),
    ({"estimator": "lsq"}, "lsq"),
    ({"estimator": "parq", "initial_levels": "lsbq"}, "lsbq"),
    ({"estimator": "proxquant", "outer_level": 1.0}, "range"),
    ({"estimator": "ste", "outer_level": 1.0}, "range"),
    ({"initial_levels": "kmeans"}, "kmeans"),
  ],
)
def test_levels_begin_by_the_rule_of_the_settings_or_the_estimator(
  changes, rule
):
  settings = qj.Settings(**changes)
  assert make_training(settings).initial_levels == rule
  assert settings.rule_of_levels == rule


def test_the_annealing_has_the_settings_own_fields():
  assert qj.Settings().annealing == qj.Annealing()
  settings = qj.Settings(anneal_start=0.1, relax_growth=2.0)
  assert settings.annealing == qj.Annealing(anneal_start=0.1, relax_growth=2.0)


def test_the_training_is_what_the_settings_say():
  training = make_training(
    qj.Settings(
      steps=3,
      batch_size=5,
      granularity="channel",
      outer_level=0.5,
      recalibration_batches=2,
    )
  )
  assert (training.steps, training.batch_size) == (3, 5)
  assert (training.granularity, training.outer_level) == ("channel", 0.5)
  assert training.recalibration_batches == 2
  assert make_training(qj.Settings()).outer_level is None


@pytest.mark.parametrize(
  ("changes", "momentum"),
  [
    ({}, 0.0),
    ({"momentum": 0.7}, 0.0),
    ({"optimizer": "momentum", "momentum": 0.7}, 0.7),
    ({"weight_decay": 0.1}, 0.0),
    ({"weight_clip": 0.1}, None),
    ({"optimizer": "adam"}, None),
    ({"optimizer": "adamw"}, None),
    ({"shared_optimizer": "adam", "centers_optimizer": "adam"}, 0.0),
  ],
)
def test_momentum_is_that_of_steps_that_are_sums_of_gradients(
  changes, momentum
):
  assert make_training(qj.Settings(**changes)).momentum == momentum


def test_the_optimizer_of_downloaded_models_has_the_weight_decay():
  optimizer = make_training(
    qj.Settings(shared_optimizer="momentum", momentum=0.5, weight_decay=0.1)
  ).shared_optimizer
  params = {"w": jnp.array([2.0])}
  state = optimizer.init(params)
  # The velocity: 1 + 0.1 * 2, then half of that and as much again.
  for velocity in (1.2, 1.8):
    updates: Any
    updates, state = optimizer.update(
      {"w": jnp.array([1.0])}, state, params, learning_rate=0.1
    )
    np.testing.assert_allclose(updates["w"], -0.1 * velocity, rtol=1e-6)
