"""Tuning on validation data, with the same budget for every method."""

import collections
import csv
import json
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import quped_jax as qj
from configs import compare_digits
from quped_jax import methods
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


@hypothesis.given(
  st.lists(st.integers(1, 6), min_size=0, max_size=3),
  st.data(),
  st.text(min_size=1),
)
def test_each_value_of_a_setting_is_tried_equally_often(sizes, data, name):
  space = {f"s{i}": tuple(range(size)) for i, size in enumerate(sizes)}
  # Up to the whole grid, where there is hardly a choice.
  trials = data.draw(st.integers(1, math.prod(sizes)))
  drawn = tune.draw("space", space, trials, name)
  assert len(drawn) == len({tune.describe(point) for point in drawn}) == trials
  for setting, values in space.items():
    tried = collections.Counter(point[setting] for point in drawn)
    for value in values:
      assert trials // len(values) <= tried[value] <= -(-trials // len(values))
  assert tune.draw("space", space, trials, name) == drawn


def test_much_of_a_grid_is_drawn_as_evenly_as_a_little_of_it():
  space = {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3), "c": (0, 1, 2)}
  for trials in range(1, 49):
    drawn = tune.draw("space", space, trials, "row")
    assert len({tuple(point.values()) for point in drawn}) == trials
    for setting, values in space.items():
      tried = collections.Counter(point[setting] for point in drawn)
      assert len(tried) == min(len(values), trials)
      assert max(tried.values()) <= -(-trials // len(values))


def test_rows_with_equal_spaces_try_different_settings(tmp_path):
  config = small.make_config(
    methods=("fedgkd", "fedgkd_vote"), tune={"trials": 6}
  )
  rates = {"learning_rate": (0.02, 0.05, 0.1, 0.2)}
  config["tune"]["spaces"] = {
    name: {**rates, name: {"gamma": (0.1, 0.2, 0.5)}}
    for name in config["methods"]
  }
  trials = tune.make_trials(config, tmp_path)
  drawn = [
    [tuple(t.settings.values()) for t in trials if t.row == row]
    for row in dict.fromkeys(trial.row for trial in trials)
  ]
  assert len(drawn) == 4
  for i, one in enumerate(drawn):
    assert one not in drawn[:i]


def test_draws_are_points_of_the_grid():
  space = {"learning_rate": (0.1, 0.2), "quped": {"lambda_p": (0.3, 0.4)}}
  drawn = tune.draw("space", space, 4, "quped_32")
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


def test_values_to_try_may_be_numbers_of_numpy():
  """Drawn values go into JSON files."""
  given = {
    "learning_rate": np.array([0.1, 0.2], np.float32),
    "steps": (np.int64(3), np.int64(4)),
    "quped": {"lambda_p": [np.float64(0.5), 1]},
  }
  plain = {
    "learning_rate": (0.1, 0.2),
    "steps": (3, 4),
    "quped": {"lambda_p": (0.5, 1)},
  }
  drawn = tune.draw("space", given, 4, "quped_32")
  assert drawn == tune.draw("space", plain, 4, "quped_32")
  json.dumps(drawn)


def test_the_comparison_of_all_methods_tries_every_value(tmp_path):
  config = compare_digits.get_config().to_dict()
  section, tried = config["tune"], collections.defaultdict(set)
  for trial in tune.make_trials(config, tmp_path):
    for setting, value in trial.settings.items():
      tried[trial.row, setting].add(value)
  for (row, setting), values in tried.items():
    space = tune.flatten(section["spaces"][row.method])
    assert values == set(space[setting]), f"{row.name}: {setting}"


def test_the_comparison_tries_defaults_of_what_it_tunes():
  config = compare_digits.get_config().to_dict()
  for name, space in config["tune"]["spaces"].items():
    method = config["overrides"].get(name, {}).get("method", name)
    own = space.get(method, {})
    defaults = methods.get_method(method).options()
    for option, values in own.items():
      assert getattr(defaults, option) in values, f"{name}: {option}"


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


@pytest.mark.slow
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


def test_a_trial_that_diverges_ends_neither_the_tuning_nor_is_chosen(tmp_path):
  class Diverging(small.Stub):
    def __call__(self, settings, folder, **how):
      if settings.learning_rate[0] == 0.1:
        self.folders.append(folder)
        raise qj.DivergenceError("every client diverged")
      super().__call__(settings, folder, **how)

  config = small.make_config(
    methods=("local",), bits=("32",), tune={"trials": 4}
  )
  lines: list[str] = []
  start = Diverging(lambda settings: settings.learning_rate[0])
  chosen = tune.tune(config, tmp_path, start, lines.append)
  assert chosen == {"local_32": {"learning_rate": 0.2}}
  assert len(start.folders) == 4
  assert any("every client diverged" in line for line in lines)
  nothing = [{"validation": math.nan} for _ in range(4)]
  assert tune.best(tune.make_trials(config, tmp_path), nothing) == {}
  written = json.loads((tmp_path / "tune.json").read_text())["trials"]
  scores = {t["settings"]["learning_rate"]: t["validation"] for t in written}
  assert scores == {0.02: 0.02, 0.05: 0.05, 0.1: None, 0.2: 0.2}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"trials": 5}, "tune.spaces.local: must have at least trials=5"),
    ({"trials": 0}, "tune.trials=0: must be at least 1"),
    ({"trials": True}, "tune.trials=True: must be a whole number"),
    ({"rounds": 2.5}, "tune.rounds=2.5: must be a whole number"),
    ({"validation_fraction": "a"}, "tune.validation_fraction='a': must be a n"),
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
