"""Running what is missing of a list of runs."""

import copy
import json

import pytest

import quped_jax as qj
from quped_jax.experiment.comparison import plan, runs
from quped_jax.experiment.comparison.plan import Row
from tests.experiment.comparison import small


def run_stub(config, folder, **kwargs):
  start = small.Stub(**kwargs)
  lines = []
  planned = plan.make_runs(config, folder)
  runs.run_missing(planned, start, lines.append)
  return [path.name for path in start.folders], lines


def test_what_is_done_is_not_run_again(tmp_path):
  config = small.make_config(bits=("32",), seeds=(0, 1))
  first, lines = run_stub(config, tmp_path)
  assert first == [
    "local_32_seed0",
    "fedavg_32_seed0",
    "local_32_seed1",
    "fedavg_32_seed1",
  ]
  assert lines[0] == "4 of 4 runs to do"
  assert lines[1].startswith("[1/4] local, 32 bits, seed 0: 0 s; 0:00 elapsed")
  again, lines = run_stub(config, tmp_path)
  assert again == []
  assert lines == ["0 of 4 runs to do"]
  (tmp_path / "runs" / "fedavg_32_seed0" / "summary.json").unlink()
  assert run_stub(config, tmp_path)[0] == ["fedavg_32_seed0"]


def test_after_an_interruption_the_same_call_goes_on(tmp_path):
  config = small.make_config(bits=("32",), seeds=(0, 1))
  with pytest.raises(KeyboardInterrupt):
    run_stub(config, tmp_path, stop_after=2)
  assert run_stub(config, tmp_path)[0] == ["local_32_seed1", "fedavg_32_seed1"]


def test_other_settings_are_run_again(tmp_path):
  config = small.make_config(bits=("32",), seeds=(0,))
  run_stub(config, tmp_path)
  changed = copy.deepcopy(config)
  changed["overrides"] = {"fedavg": {"fedavg": {"server_learning_rate": 0.5}}}
  assert run_stub(changed, tmp_path)[0] == ["fedavg_32_seed0"]
  # Options of a method that does not run change nothing.
  changed["base"]["quped"]["lambda_p"] = 0.1
  assert run_stub(changed, tmp_path)[0] == []


@pytest.mark.parametrize(
  ("method", "base"),
  [("local", {"epochs": 2}), ("quped", {"budget": "gradients"})],
)
def test_steps_that_follow_from_others_are_recognized(tmp_path, method, base):
  config = small.make_config(
    methods=(method,), bits=("32",), seeds=(0,), base=base
  )
  (run,) = plan.make_runs(config, tmp_path)
  qj.run(run.settings, run.folder, display=qj.Display(quiet=True))
  summary = json.loads((run.folder / "summary.json").read_text())
  assert summary["steps"] != run.settings.steps
  assert runs.is_done(run)


def test_what_remains_is_estimated_by_row():
  one, two = Row("local", (32,)), Row("fedavg", (32,))
  left = [plan.Run(row, None, None, "") for row in (one, one, two)]  # pyright: ignore[reportArgumentType]
  assert runs.estimate({one: 3.0}, left) == 9.0
  assert runs.estimate({one: 3.0, two: 1.0}, left) == 7.0
  assert runs.minutes(187.4) == "3:07"
