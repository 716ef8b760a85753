"""Tuning on validation data, with the same budget for every method."""

import collections
import csv
import json
import math

import pytest

import quped_jax as qj
from configs import compare_digits
from quped_jax import methods
from quped_jax.experiment.changes import flatten
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


def test_rows_with_equal_spaces_try_the_same_settings_where_it_is_said(
  tmp_path,
):
  config = small.make_config(
    methods=("quped", "ours", "local"),
    bits=("2",),
    overrides={"ours": {"method": "quped"}},
    tune={"trials": 4, "same_draws": True},
  )
  rates = {"learning_rate": (0.02, 0.05, 0.1), "strength": (1e-4, 1e-3)}
  config["tune"]["spaces"] = {
    "quped": rates, "ours": rates, "local": {**rates, "norm": ("l1", "l2")},
  }  # fmt: skip
  trials = tune.make_trials(config, tmp_path)
  tried = {
    name: [t.settings for t in trials if t.row.method == name]
    for name in config["methods"]
  }
  assert tried["quped"] == tried["ours"] and len(tried["local"]) == 4
  config["tune"]["same_draws"] = 1
  with pytest.raises(ValueError, match="^tune.same_draws=1: must be"):
    tune.make_trials(config, tmp_path)


def test_the_comparison_of_all_methods_tries_every_value(tmp_path):
  config = compare_digits.get_config().to_dict()
  section, tried = config["tune"], collections.defaultdict(set)
  for trial in tune.make_trials(config, tmp_path):
    for setting, value in trial.settings.items():
      tried[trial.row, setting].add(value)
  for (row, setting), values in tried.items():
    space = flatten(section["spaces"][row.method])
    assert values == set(space[setting]), f"{row.name}: {setting}"


def test_the_comparison_tries_defaults_of_what_it_tunes():
  config = compare_digits.get_config().to_dict()
  for name, space in config["tune"]["spaces"].items():
    method = config["overrides"].get(name, {}).get("method", name)
    own = space.get(method, {})
    defaults = methods.get_method(method).options()
    for option, values in own.items():
      assert getattr(defaults, option) in values, f"{name}: {option}"


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def halved(base=None, method="fedavg", bits="32", **changes):
  return small.make_config(
    base=base or {},
    methods=(method,),
    bits=(bits,),
    tune={"trials": 3, "rounds": 4, "halving": 2, **changes},
  )


@pytest.mark.slow
def test_halving_lets_the_better_trials_go_on(tmp_path):
  def validation(settings):
    rate = settings.learning_rate[0]
    # One diverges where others go on.
    return math.nan if rate == 0.4 and settings.rounds > 1 else rate

  start, lines = small.Stub(validation), []
  chosen = tune.tune(halved(), tmp_path, start, lines.append)
  runs = [settings.rounds for settings in start.settings]
  # As many rounds as three trials of four, since runs go on where they ended.
  assert [runs.count(n) for n in (1, 2, 4)] == [7, 3, 1]
  assert lines[0] == "7 of 7 trials, up to round 1"
  by_rung = {
    n: [s.learning_rate[0] for s in start.settings if s.rounds == n]
    for n in (1, 2, 4)
  }
  assert sorted(by_rung[1])[-3:] == sorted(by_rung[2])
  survivors = [rate for rate in by_rung[2] if rate != 0.4]
  assert by_rung[4] == [max(survivors)]
  assert chosen["fedavg_32"]["learning_rate"] == max(survivors)
  tried = json.loads((tmp_path / "tune.json").read_text())["trials"]
  assert len(tried) == 7
  for record in tried:
    rungs = {1: 1, 2: 2, 4: 3}[record["rounds"]]
    assert record["seconds"] == 2.0 * rungs
  # All is there.
  again = small.Stub(validation)
  assert tune.tune(halved(), tmp_path, again, lines.append) == chosen
  assert not again.settings


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    pytest.param({}, marks=pytest.mark.long),
    # Fine-tuning begins when the first rung has ended.
    pytest.param(
      {"method": "quped", "bits": "1", "base": {"finetune_at": 2}},
      marks=pytest.mark.long,
    ),
    pytest.param(
      {"method": "quped", "bits": "1", "base": {"finetune_at": 3}},
      marks=pytest.mark.long,
    ),
    # Quantization is complete when it ends.
    {"method": "local", "bits": "1", "base": {"estimator": "binaryrelax"}},
  ],
)
def test_a_trial_that_goes_on_is_the_one_that_was_never_stopped(how, tmp_path):
  config = halved(**how, trials=1, halving=1)
  tune.tune(config, tmp_path, say=lambda line: None)
  (folder,) = (tmp_path / "tune").glob("*_round4")
  (before,) = (tmp_path / "tune").glob(folder.name[:-1] + "2")
  settings = qj.Settings.from_dict(
    json.loads((folder / "config.json").read_text())
  )
  alone = tmp_path / "alone"
  qj.run(settings, alone, display=qj.Display(quiet=True))
  records = [
    [json.loads(x) for x in (at / "metrics.jsonl").read_text().splitlines()]
    for at in (before, folder, alone)
  ]
  assert [record["round"] for record in records[1]] == [2, 4]
  # Its first rounds are those of the rung before, which were not run again.
  assert records[1][:1] == records[0]
  for record, other in zip(records[1], records[2], strict=True):
    assert record == pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True)
  # The last is saved because it went on from the first, which was there.
  saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
  assert saved == ["round_00000002", "round_00000004"]


@pytest.mark.slow
def test_trials_that_go_at_once_are_those_that_go_one_by_one(tmp_path):
  tried = []
  for strategy in ("one", "vmap"):
    folder = tmp_path / strategy
    tune.tune(
      halved(halving=1),
      folder,
      say=lambda line: None,
      run_strategy=strategy,
    )
    tried.append(json.loads((folder / "tune.json").read_text())["trials"])
    # Half of them go on, each from where it was.
    last = list((folder / "tune").glob("*_round4"))
    assert len(last) == 2
    for run in last:
      assert (run / "checkpoints" / "round_00000002").is_dir()
  for one, other in zip(*tried, strict=True):
    same = ("method", "settings", "rounds")
    assert [one[name] for name in same] == [other[name] for name in same]
    # Rounding may decide for a sample.
    assert one["validation"] == pytest.approx(other["validation"], abs=0.02)
