"""Tuning on validation data, with the same budget for every method."""

import csv
import json

import pytest

from quped_jax.experiment.comparison import plan, tune
from tests.experiment.comparison import small


def test_every_row_tries_the_same_number_of_settings(tmp_path):
  config = small.make_config(tune={"trials": 3, "seeds": (0, 1)})
  trials = tune.make_trials(config, tmp_path)
  assert [(t.row.name, t.number) for t in trials] == [
    (name, number)
    for name in ("local_32", "local_1", "fedavg_32", "fedavg_1")
    for number in range(3)
  ]
  for row in {trial.row for trial in trials}:
    tried = [tune.describe(t.settings) for t in trials if t.row == row]
    assert len(set(tried)) == 3
  assert all(len(trial.runs) == 2 for trial in trials)
  # The same again.
  assert tune.make_trials(config, tmp_path) == trials


def test_draws_are_points_of_the_grid():
  space = {"learning_rate": (0.1, 0.2), "quped": {"lambda_p": (0.3, 0.4)}}
  drawn = tune.draw("space", space, 4)
  assert drawn == [
    {"learning_rate": rate, "quped.lambda_p": share}
    for rate in (0.1, 0.2)
    for share in (0.3, 0.4)
  ]
  assert tune.unflatten(drawn[0]) == {
    "learning_rate": 0.1,
    "quped": {"lambda_p": 0.3},
  }
  assert tune.flatten(tune.unflatten(drawn[0])) == drawn[0]


def test_tuning_is_on_validation_data_alone(tmp_path):
  # Accuracy on test data is the same for all of a method's trials.
  start = small.Stub(
    lambda settings: 1.0 - abs(settings.learning_rate[0] - 0.1)
  )
  config = small.make_config(
    methods=("fedavg",),
    bits=("1",),
    tune={"trials": 12, "seeds": (0, 1), "validation_fraction": 0.3},
  )
  chosen = tune.tune(config, tmp_path, start, lambda line: None)
  assert chosen["fedavg_1"]["learning_rate"] == 0.1
  assert len(start.settings) == 24
  for settings in start.settings:
    assert settings.validation_fraction == 0.3
    assert settings.rounds == settings.eval_every == 2
  written = json.loads((tmp_path / "tune.json").read_text())
  assert written["best"] == chosen
  assert written["budget"]["trials"] == 12
  for record in written["trials"]:
    rate = record["settings"]["learning_rate"]
    assert record["validation"] == pytest.approx(1.0 - abs(rate - 0.1))
    assert record["seconds"] == 4.0
  with (tmp_path / "tune.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert set(rows[0]) == {
    "method",
    "bits",
    "trial",
    "settings",
    "validation",
    "seconds",
  }
  assert rows[0]["settings"].startswith("fedavg.server_learning_rate=0.5")
  # The chosen settings are overrides for a comparison.
  best = json.loads((tmp_path / "best.json").read_text())
  (run, _, _) = plan.make_runs({**config, "overrides": best}, tmp_path)
  assert run.settings.learning_rate == (0.1,)
  assert run.settings.validation_fraction == 0.0


def test_tuning_goes_on_where_it_stopped(tmp_path):
  config = small.make_config()
  with pytest.raises(KeyboardInterrupt):
    tune.tune(config, tmp_path, small.Stub(stop_after=3), lambda line: None)
  start = small.Stub()
  tune.tune(config, tmp_path, start, lambda line: None)
  assert len(start.folders) == 8 - 3


def test_a_trial_whose_training_failed_is_not_chosen(tmp_path):
  def validation(settings):
    return 0.1 if settings.learning_rate[0] == 0.2 else float("nan")

  config = small.make_config(
    methods=("local",), bits=("32",), tune={"trials": 4}
  )
  chosen = tune.tune(
    config, tmp_path, small.Stub(validation), lambda line: None
  )
  assert chosen == {"local_32": {"learning_rate": 0.2}}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"trials": 5}, "tune.spaces.local: must have at least trials=5"),
    ({"trials": 0}, "tune.trials=0: must be 1 or more"),
    ({"seeds": ()}, r"tune.seeds=\(\): must have at least one"),
    ({"validation_fraction": 0.0}, "tune.validation_fraction=0.0: must be"),
    ({"spaces": {}}, "tune.spaces.local: must be given"),
    ({"spaces": {"local": {"learning_rate": 0.1}}}, "must be a tuple of the"),
    ({"spaces": {"local": {"rounds": (1, 2)}}}, "rounds: must be the same"),
    ({"spaces": {"local": {"rate": (1, 2)}}}, "local_32: rate=1: no such"),
  ],
)
def test_a_wrong_space_is_an_error(tmp_path, changes, message):
  start = small.Stub()
  with pytest.raises(ValueError, match=message):
    tune.tune(small.make_config(tune=changes), tmp_path, start)
  assert not start.folders
