"""All rows are tuned with as many gradients."""

import pytest

from experiments.paper import tuning
from quped_jax.experiment import many
from quped_jax.experiment.comparison.plan import Row, row_settings
from tests.experiments.paper import tables

SPACES = {
  "local": {"learning_rate": (0.01, 0.1, 0.2, 0.4)},
  "quped": {"learning_rate": (0.01, 0.1, 0.2, 0.4)},
}


def part(**changes):
  section = {**tables.CONFIG["tune"], "spaces": SPACES, **changes}
  return tables.table(tune=section).parts[0]


@pytest.mark.parametrize(
  ("row", "of_step"),
  [
    (Row("local", (32,)), 1),
    # The estimator "soft" trains weights by two gradients, levels by one.
    (Row("local", (2,)), 3),
  ],
)
def test_trials_are_as_many_as_the_gradients_allow(row, of_step):
  found = tuning.budget(part(gradients=24), row, many.Sources())
  # Two rounds of two steps each.
  assert found.trials == min(24 // (4 * of_step), 4)
  assert found.gradients == found.trials * 4 * of_step
  assert found.points == 4


def test_there_is_one_trial_at_least():
  found = tuning.budget(part(gradients=1), Row("quped", (2,)), many.Sources())
  assert found.trials == 1


def test_a_budget_that_is_none_is_named():
  with pytest.raises(ValueError, match="tune.gradients=0: must be at least 1"):
    tuning.budget(part(gradients=0), Row("local", (32,)), many.Sources())


def test_what_a_row_says_itself_counts_more_than_what_was_chosen():
  config = {
    **tables.CONFIG,
    "overrides": {"quped": {"bits": "2", "quped": {"lambda_p": 0.1}}},
  }
  chosen = {
    "learning_rate": 0.3,
    "quped": {"lambda_p": 0.9, "temperature": 2.0},
  }
  row = Row("quped", (2,))
  settings = row_settings(tuning.with_chosen(config, row, chosen), row, 0)
  assert settings.learning_rate == (0.3,)
  assert settings.options().lambda_p == 0.1
  assert settings.options().temperature == 2.0
