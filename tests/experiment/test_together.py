"""Runs that go all at once: each is the run that its settings alone give."""

import dataclasses
import json
import signal

import pytest

import quped_jax as qj
from tests import tiny
from tests.experiment.test_sweep import (
  BASE,
  close,
  compiled,
  files,
  quietly,
)

__all__ = ["compiled"]  # A fixture.

OVER = {"seed": (0, 3), "learning_rate": (0.1, 0.3)}


def at_once(settings, over, workdir=None, **how):
  return quietly(settings, over, workdir, run_strategy="vmap", **how)


def without_costs(folder):
  found = files(folder)
  found["names"] = [x for x in found["names"] if x != "checkpoints"]
  return found


def check_as_one_after_the_other(base, over, tmp_path):
  runs = at_once(base, over, tmp_path / "at once")
  singles = quietly(base, over, tmp_path / "one", run_strategy="one")
  for run, single in zip(runs, singles, strict=True):
    assert run.folder is not None and single.folder is not None
    assert close(files(run.folder), files(single.folder))
    assert run.summary is not None and single.summary is not None
    assert run.summary["timing"].keys() == single.summary["timing"].keys()
  return runs


@pytest.mark.slow
def test_runs_at_once_leave_what_they_leave_alone(tmp_path):
  runs = check_as_one_after_the_other(BASE, OVER, tmp_path)
  assert len({run.history[-1]["loss"] for run in runs}) == 4


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:partition='dirichlet'.*:UserWarning")
def test_it_is_so_of_all_that_a_run_may_do(tmp_path):
  base = dataclasses.replace(
    BASE, method="quped", bits=(1, 2, 32), hidden=(8, 8), held_out_clients=1,
    validation_fraction=0.2, partition="dirichlet", clients=4, rounds=3,
    finetune_at=1, save_models="clients", checkpoint_every=2, eval_every=2,
  )  # fmt: skip
  over = {"seed": (0, 1), "quped.lambda_p": (0.2, 0.6)}
  check_as_one_after_the_other(base, over, tmp_path)


@pytest.mark.slow
def test_all_runs_are_traced_and_compiled_once(compiled):
  made = qj.create_model("mlp", 10, features=(8,))
  traced = tiny.Counter(made.apply)
  model, planned = made._replace(apply=traced), []

  def say(text):
    # When all runs are planned.
    if "to do" in text:
      planned.append(traced.calls)

  counts = []
  for seeds, strategy in (((0,), "one"), ((0, 1, 2), "vmap")):
    compiled.clear()
    qj.sweep(BASE, {"seed": seeds}, model=model, say=say, run_strategy=strategy)
    counts.append(traced.calls - planned[-1])
    assert len(set(compiled)) == len(compiled)
  # As of one run alone.
  assert counts[0] == counts[1]
  # Initial states, rounds, evaluation; and to stack states and to take one out.
  assert len(compiled) == 6


class Ends(qj.Display):
  """Ends all runs when they have gone through some rounds."""

  def on_evaluation(self, evaluation):
    if evaluation.round == 1:
      signal.raise_signal(signal.SIGINT)


def interrupted(base, over, folder, monkeypatch, strategy):
  """Ends a sweep during its second round."""
  from quped_jax.experiment import sweep as sweep_lib

  with monkeypatch.context() as patch:
    patch.setattr(sweep_lib, "Display", lambda **_: Ends(quiet=True))
    with pytest.raises(qj.Interrupted) as caught:
      quietly(base, over, folder, run_strategy=strategy)
  return str(caught.value)


@pytest.mark.slow
def test_runs_at_once_that_were_interrupted_go_on_to_the_same_bits(
  tmp_path, monkeypatch
):
  base = dataclasses.replace(
    BASE, method="quped", bits=(1, 2, 32), rounds=3, finetune_at=2,
    clients_per_round=2, save_models="clients", hidden=(8, 8),
  )  # fmt: skip
  over = {"seed": (0, 1, 2)}
  whole = at_once(base, over, tmp_path / "whole")
  interrupted(base, over, tmp_path / "broken", monkeypatch, "vmap")
  for run, expected in zip(
    at_once(base, over, tmp_path / "broken"), whole, strict=True
  ):
    assert run.folder is not None and expected.folder is not None
    assert without_costs(run.folder) == without_costs(expected.folder)
    for path in (expected.folder / "models").rglob("*"):
      if path.is_file():
        other = run.folder / path.relative_to(expected.folder)
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_either_strategy_goes_on_where_the_other_was_interrupted(
  tmp_path, monkeypatch
):
  base = dataclasses.replace(BASE, rounds=3)
  over = {"seed": (0, 1, 2)}
  whole = quietly(base, over, tmp_path / "whole", run_strategy="one")
  said = interrupted(base, over, tmp_path / "vmap", monkeypatch, "vmap")
  # When all have reported a round, they have been asked for the next.
  assert said.startswith("stopped by SIGINT: round 2 is saved in ")
  assert said.endswith("; so are the 2 runs beside it")
  saved = list((tmp_path / "vmap").glob("*/checkpoints/*"))
  assert len({path.parents[1] for path in saved}) == 3
  said = interrupted(base, over, tmp_path / "one", monkeypatch, "one")
  assert "runs beside it" not in said
  others = {"vmap": "one", "one": "vmap"}
  for began, goes_on in others.items():
    runs = quietly(base, over, tmp_path / began, run_strategy=goes_on)
    for run, expected in zip(runs, whole, strict=True):
      assert run.folder is not None and expected.folder is not None
      assert close(without_costs(run.folder), without_costs(expected.folder))


@pytest.mark.slow
def test_a_run_that_diverges_ends_alone(tmp_path):
  base = dataclasses.replace(BASE, on_divergence="raise", rounds=3)
  rates = {"learning_rate": (0.1, 1e30, 0.2)}
  runs = at_once(base, rates, tmp_path / "all")
  assert [bool(run.error) for run in runs] == [False, True, False]
  table = json.loads((tmp_path / "all" / "sweep.json").read_text())
  assert [entry["finished"] for entry in table] == [True, False, True]
  # Beside another, no bit is different.
  rates = {"learning_rate": (0.1, 0.3, 0.2)}
  fine = at_once(base, rates, tmp_path / "fine")
  for i in (0, 2):
    assert runs[i].history == fine[i].history


def test_runs_over_several_devices_cannot_go_at_once(compiled):
  base = dataclasses.replace(BASE, devices=2)
  with pytest.raises(ValueError, match="run_strategy='vmap': must be 'one'"):
    at_once(base, {"seed": (0, 1)})
  with pytest.raises(ValueError, match="run_strategy='all': must be one of"):
    quietly(BASE, {"seed": (0, 1)}, run_strategy="all")
  assert not compiled
