"""Runs of a comparison through the programs that they share."""

import dataclasses
import gc
import json
import math
import weakref

import pytest

import quped_jax as qj
from quped_jax.experiment import many
from quped_jax.experiment.comparison import plan, runs
from quped_jax.experiment.comparison.shared_programs import SharedPrograms
from tests.experiment.comparison import small

QUIET = qj.Display(quiet=True)


def planned(folder, **changes):
  return plan.make_runs(small.make_config(**changes), folder)


class Group:
  """Takes the place of a group of programs, and says which there are."""

  alive: "weakref.WeakSet[Group]" = weakref.WeakSet()
  seen: list[list[str]] = []

  def __init__(self, runs, folder, *, model_given):
    assert not model_given
    del folder
    self.settings = [run.settings for run in runs]
    self.alive.add(self)

  def run(self, run, folder, *, telling, resume):
    del folder, telling, resume
    assert run.settings in self.settings
    gc.collect()
    self.seen.append(sorted(x.settings[0].method for x in self.alive))

  def at_once(self, strategy):
    assert strategy == "auto"
    return False


@pytest.mark.slow
def test_programs_are_kept_as_long_as_runs_of_them_follow(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(many, "Group", Group)
  todo = planned(tmp_path, bits=("32",), seeds=(0, 1))
  assert [run.row.method for run in todo] == ["local", "fedavg"] * 2
  start = SharedPrograms(todo, many.Sources())
  for run in todo:
    start(run.settings, run.folder)
  both = ["fedavg", "local"]
  # And those of a run that has begun, while it goes on.
  assert Group.seen == [both, both, both, ["fedavg"]]
  gc.collect()
  assert not Group.alive


def results(folder):
  summary = json.loads((folder / "summary.json").read_text())
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return {
    "identity": json.loads((folder / "identity.json").read_text()),
    "config": json.loads((folder / "config.json").read_text()),
    "records": [json.loads(line) for line in lines],
    "held out": summary["held_out_clients"],
    "names": sorted(path.name for path in folder.iterdir()),
  }


def close(found, expected):
  if isinstance(expected, dict):
    return found.keys() == expected.keys() and all(
      close(found[name], value) for name, value in expected.items()
    )
  if isinstance(expected, list):
    return len(found) == len(expected) and all(map(close, found, expected))
  if isinstance(expected, float):
    return math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-6)
  return found == expected


@pytest.mark.slow
@pytest.mark.parametrize(
  "strategy", ["one", pytest.param("vmap", marks=pytest.mark.long)]
)
def test_runs_are_those_of_their_settings_alone(tmp_path, strategy):
  todo = planned(
    tmp_path,
    methods=("quped", "local"),
    bits="1; 32",
    seeds=(0, 1),
    base={"save_models": "clients"},
  )
  count = runs.run_missing(
    todo, say=lambda line: None, quiet=True, run_strategy=strategy
  )
  assert count == 8
  # Each of the four rows once, and both seeds.
  for run in (todo[i] for i in (0, 3, 5, 6)):
    alone = tmp_path / "alone" / run.folder.name
    # One of many draws no figures.
    settings = dataclasses.replace(run.settings, figures=False)
    qj.run(settings, alone, display=QUIET)
    assert close(results(run.folder), results(alone))
  compiling = [
    runs.summary_of(run)["timing"]["compile_seconds"] for run in todo
  ]
  assert all(compiling[:4])
  if strategy == "one":
    assert not any(compiling[4:])
  else:
    # Each has its share.
    assert compiling[:4] == compiling[4:]
  # They are finished, whoever runs them.
  assert runs.to_do(todo) == []


@pytest.mark.slow
@pytest.mark.parametrize(
  "strategy", ["one", pytest.param("vmap", marks=pytest.mark.long)]
)
def test_a_run_that_diverges_costs_the_others_nothing(tmp_path, strategy):
  todo = planned(
    tmp_path,
    methods=("local",),
    bits=("32",),
    seeds=(0, 1),
    base={"on_divergence": "raise"},
  )
  first = todo[0].settings
  wild = qj.Settings.from_dict({**first.to_dict(), "learning_rate": (1e30,)})
  todo.insert(
    1, todo[0]._replace(settings=wild, folder=tmp_path / "runs" / "wild")
  )
  lines: list[str] = []
  how = {"quiet": True, "run_strategy": strategy}
  runs.run_missing(todo, say=lines.append, may_diverge=True, **how)
  assert [runs.is_finished(run) for run in todo] == [True, False, True]
  assert "diverged" in lines[2]
  assert "seed 1" in lines[3]
  if strategy == "one":
    assert runs.summary_of(todo[2])["timing"]["compile_seconds"] == 0
  with pytest.raises(qj.DivergenceError):
    runs.run_missing(todo, say=lines.append, **how)


def test_an_error_names_the_row_and_comes_before_any_run(tmp_path):
  todo = planned(tmp_path, overrides={"fedavg": {"shared_model": "cnn1"}})
  with pytest.raises(ValueError, match="fedavg_32: .*averages weights"):
    SharedPrograms(todo, many.Sources())
