"""Sweeps: each run is the one that its settings alone give."""

import dataclasses
import json
import math
import signal
from typing import Any

import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment import sweep as sweep_lib
from quped_jax.experiment.changes import describe, folder_name
from quped_jax.experiment.sweep import plan
from quped_jax.simulation.program import Program

BASE = qj.Settings(
  method="local",
  clients=3,
  classes_per_client=4,
  bits=(32,),
  hidden=(8,),
  rounds=2,
  steps=3,
  devices=1,
  # A run of a sweep has none, one by itself has.
  figures=False,
)
COSTS = ("timing", "memory")


def quietly(settings, over, workdir=None, **how):
  return qj.sweep(settings, over, workdir, quiet=True, **how)


@pytest.fixture
def compiled(monkeypatch):
  """Names of what is compiled, one per compilation."""
  found = []
  compile_program = Program._compile

  def count(self, args):
    found.append(self)
    return compile_program(self, args)

  monkeypatch.setattr(Program, "_compile", count)
  return found


def close(found, expected):
  """Whether JSON values are equal, but for rounding."""
  if isinstance(expected, dict):
    return found.keys() == expected.keys() and all(
      close(found[k], expected[k]) for k in expected
    )
  if isinstance(expected, list):
    return len(found) == len(expected) and all(map(close, found, expected))
  if isinstance(expected, float):
    return math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-6)
  return found == expected


def files(folder):
  """What a run left, but for what it cost."""
  summary = json.loads((folder / "summary.json").read_text())
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return {
    "summary": {k: v for k, v in summary.items() if k not in COSTS},
    "metrics": [json.loads(line) for line in lines],
    "config": json.loads((folder / "config.json").read_text()),
    "identity": json.loads((folder / "identity.json").read_text()),
    "clients": (folder / "clients.csv").read_text(),
    "names": sorted(path.name for path in folder.iterdir()),
  }


def check_runs_are_those_of_settings_alone(base, over, tmp_path, step=1):
  """Every `step`-th run of a sweep, from the last one on."""
  runs = quietly(base, over, tmp_path / "sweep")
  for run in runs[::-step]:
    alone = tmp_path / f"alone_{runs.index(run)}"
    result = qj.run(run.settings, alone, display=qj.Display(quiet=True))
    assert run.folder is not None and run.summary is not None
    assert close(files(run.folder), files(alone))
    assert close(run.history, result.history)
    assert run.accuracy == pytest.approx(
      result.summary["accuracy"][result.summary["primary_variant"]]["mean"]
    )
  return runs


@pytest.mark.slow
def test_each_run_is_the_one_that_its_settings_alone_give(tmp_path):
  over = {"seed": (0, 3), "learning_rate": (0.1, 0.3)}
  runs = check_runs_are_those_of_settings_alone(BASE, over, tmp_path)
  # And they differ.
  assert len({run.history[-1]["loss"] for run in runs}) == 4


QUPED = dataclasses.replace(
  BASE, method="quped", bits=(1, 2, 32), hidden=(8, 8), held_out_clients=1,
  validation_fraction=0.2, partition="dirichlet", clients=4,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:partition='dirichlet'.*:UserWarning")
@pytest.mark.parametrize(
  "changes",
  [
    pytest.param({}, marks=pytest.mark.long),
    pytest.param({"devices": 2, "strategy": "auto"}, marks=pytest.mark.long),
    pytest.param(
      {"client_state": "disk", "clients_per_block": 2}, marks=pytest.mark.long
    ),
    {"finetune_at": 1, "save_models": "clients"},
    pytest.param(
      {"partition": "iid", "epochs": 1, "participation": (0.7,)},
      marks=pytest.mark.long,
    ),
  ],
)
def test_it_is_so_however_runs_go(changes, tmp_path):
  over = {
    "seed": (0, 1),
    "quped.lambda_p": (0.2, 0.6),
    "strength": (1e-4, 1e-2),
  }
  base = dataclasses.replace(QUPED, **changes)
  # The last and the first differ in all that is swept.
  runs = check_runs_are_those_of_settings_alone(base, over, tmp_path, step=7)
  compiling = [
    run.summary["timing"]["compile_seconds"] for run in runs if run.summary
  ]
  assert compiling[0] > 0 and not any(compiling[1:])


@pytest.mark.slow
def test_runs_of_different_length_anneal_in_one_program(compiled, tmp_path):
  base = dataclasses.replace(
    BASE, method="local", bits=(1, 32), hidden=(8, 8), estimator="parq"
  )
  over = {"rounds": (2, 4), "seed": (0, 1)}
  compiled.clear()
  runs = check_runs_are_those_of_settings_alone(base, over, tmp_path, step=3)
  losses = [run.history[1]["loss"] for run in runs]
  # After a round, shorter runs have come further.
  assert losses[0] != losses[2]
  compiled.clear()
  assert len(quietly(base, over)) == 4
  assert len(compiled) == 3


def test_runs_of_one_program_compile_it_once(compiled):
  over = {"seed": (0, 1), "learning_rate": (0.1, 0.2, 0.3)}
  assert len(quietly(BASE, over)) == 6
  # Rounds, initial states, and evaluation.
  assert len(compiled) == len(set(compiled)) == 3


@pytest.mark.slow
def test_settings_that_are_part_of_programs_split_a_sweep(compiled):
  said = []
  over = {"seed": (0, 1), "steps": (2, 3), "rounds": (1, 2)}
  runs = qj.sweep(BASE, over, say=said.append)
  assert [run.changes["steps"] for run in runs] == [2, 2, 3, 3] * 2
  assert len(compiled) == 6
  assert said[0] == (
    "8 of 8 runs to do, by 2 sets of programs: steps=2 (4); steps=3 (4)"
  )
  assert said[1].startswith("[1/8] SweptRun(seed=0 steps=2 rounds=1: accuracy")


class Ends(qj.Display):
  """Ends the second of all runs, when it reports its first round."""

  runs = 0

  def __init__(self, **how):
    del how
    super().__init__(quiet=True)

  def on_begin(self, start):
    Ends.runs += 1

  def on_evaluation(self, evaluation):
    if Ends.runs == 2:
      signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(tmp_path, monkeypatch):
  over = {"seed": (0, 1, 2)}
  Ends.runs = 0
  with monkeypatch.context() as patch:
    patch.setattr(sweep_lib, "Display", Ends)
    with pytest.raises(qj.Interrupted, match="round 1 is saved in") as caught:
      quietly(BASE, over, tmp_path / "broken")
  assert len(caught.traceback) == 3
  table = json.loads((tmp_path / "broken" / "sweep.json").read_text())
  assert [entry["finished"] for entry in table] == [True, False, False]
  first = tmp_path / "broken" / "seed=0" / "summary.json"
  before = first.stat().st_mtime_ns
  said = []
  runs = qj.sweep(BASE, over, tmp_path / "broken", say=said.append)
  assert said[0] == "2 of 3 runs to do, by the same programs"
  assert first.stat().st_mtime_ns == before
  whole = quietly(BASE, over, tmp_path / "whole")
  for run, other in zip(runs, whole, strict=True):
    assert run.folder is not None and other.folder is not None
    found, expected = files(run.folder), files(other.folder)
    # That of the interrupted run stays.
    found["names"] = [x for x in found["names"] if x != "checkpoints"]
    assert found == expected
    assert run.history == other.history
  # All is finished.
  said.clear()
  again = qj.sweep(BASE, over, tmp_path / "whole", say=said.append)
  assert said == ["0 of 3 runs to do"]
  assert [run.accuracy for run in again] == [run.accuracy for run in whole]


@pytest.mark.slow
def test_a_sweep_can_begin_anew(tmp_path):
  over = {"seed": (0, 1)}
  quietly(BASE, over, tmp_path)
  before = [path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")]
  quietly(BASE, over, tmp_path, resume=False)
  after = [path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")]
  assert all(a > b for a, b in zip(after, before, strict=True))


@pytest.mark.slow
def test_a_run_that_diverges_costs_the_others_nothing(tmp_path):
  base = dataclasses.replace(BASE, on_divergence="raise")
  rates = {"learning_rate": (0.1, 1e30, 0.2)}
  runs = quietly(base, rates, tmp_path)
  assert [bool(run.error) for run in runs] == [False, True, False]
  assert runs[1].summary is None and math.isnan(runs[1].accuracy)
  assert "diverged" in repr(runs[1])
  table = json.loads((tmp_path / "sweep.json").read_text())
  assert [entry["finished"] for entry in table] == [True, False, True]
  assert table[1]["error"] == runs[1].error and table[1]["accuracy"] is None
  without = quietly(base, {"learning_rate": (0.1, 0.2)})
  assert [run.history for run in runs[::2]] == [run.history for run in without]


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused_before_anything_is_compiled(
  tmp_path, compiled
):
  quietly(BASE, {"seed": (0, 1)}, tmp_path)
  compiled.clear()
  other = dataclasses.replace(BASE, rounds=3)
  with pytest.raises(ValueError, match="it has results of another run: rounds"):
    quietly(other, {"seed": (2, 1)}, tmp_path)
  assert not compiled


def test_a_sweep_that_takes_more_than_the_memory_is_refused(
  monkeypatch, compiled
):
  monkeypatch.setattr("os.sysconf", lambda name: 10)
  with pytest.raises(ValueError, match="must fit into memory"):
    quietly(BASE, {"seed": (0, 1)})
  assert not compiled


WRONG: list[tuple[dict[str, Any], str]] = [
  ({}, "over={}: must map at least one setting to the values to try"),
  ({"sed": (1,)}, "sed='...': no such field; did you mean 'seed'"),
  ({"method_options": ({},)}, "method_options='...': no such field"),
  ({"fedsgd.mu": (1,)}, "over: the method='fedsgd': must be one of apfl"),
  ({"local.mu": (1,)}, "over: the option of local='mu': must be one of"),
  ({"quped.mu": (1,)}, "over: the option of quped='mu': must be one of lambda"),
  ({"seed": ()}, r"over\['seed'\]=\(\): must be at least one value to try"),
  ({"seed": 3}, r"over\['seed'\]=3: must be several values to try"),
  ({"method": "local"}, r"over\['method'\]='local': must be several values"),
  ({"strategy": ("vmap",)}, r"over\['strategy'\]: must be a setting that resu"),
  ({"seed": (1, -1)}, "seed=-1: must be at least 0"),
  ({"seed": (1, 1)}, "over: must be of different values; seed=1 is the same"),
  (
    {"quped.lambda_p": (0.1,)},
    r"over\['quped.lambda_p'\]: must be an option of the method that is run",
  ),
  ({"classes_per_client": (4, 11)}, "classes_per_client=11: .*per_client=11"),
]


@pytest.mark.parametrize(("over", "message"), WRONG)
def test_what_cannot_be_swept_is_named_before_anything_is_compiled(
  over, message, compiled
):
  with pytest.raises(ValueError, match=message):
    quietly(BASE, over)
  assert not compiled


def test_plans_are_products_with_a_folder_per_run(tmp_path):
  over = {
    "bits": (1, (1, 2)),
    "quped.lambda_p": np.array([0.5, 0.25]),
    "steps": [7],
  }
  runs = plan(qj.Settings(quped={"temperature": 2.0}), over, tmp_path)
  assert [run.changes["bits"] for run in runs] == [1, 1, (1, 2), (1, 2)]
  assert [run.settings.bits for run in runs] == [(1,), (1,), (1, 2), (1, 2)]
  options = [run.settings.options() for run in runs]
  assert [x.lambda_p for x in options] == [0.5, 0.25] * 2
  assert {x.temperature for x in options} == {2.0}
  assert all(run.settings.steps == 7 for run in runs)
  # By what differs.
  assert runs[3].folder == tmp_path / "bits=1-2,quped.lambda_p=0.25"
  (one,) = plan(qj.Settings(), {"steps": [7]}, tmp_path)
  assert one.folder == tmp_path / "steps=7"


def test_folders_have_plain_names_that_differ():
  assert describe({"seed": 1, "bits": (1, 32)}) == "seed=1 bits=1-32"
  assert folder_name({"seed": 1, "strength": 1e-05}) == "seed=1,strength=1e-05"
  names = [
    folder_name({"client_types": f"{count}*mlp(8,8)@1, 9*cnn1@32"})
    for count in (1, 11)
  ]
  long = [folder_name({"dataset": "x" * 300 + end}) for end in "ab"]
  for name in (*names, *long):
    assert set(name) <= set(
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,"
    )
    assert len(name) <= 130
  assert len({*names, *long}) == 4
