"""Runs that go all at once: each is the run that its settings alone give."""

import dataclasses
import json
import signal

import pytest

import quped_jax as qj
from quped_jax.simulation import run_axis, sizes
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:partition='dirichlet'.*:UserWarning")
def test_it_is_so_of_all_that_a_run_may_do(tmp_path):
  base = dataclasses.replace(
    BASE, method="quped", bits=(1, 2, 32), hidden=(8, 8), held_out_clients=1,
    validation_fraction=0.2, partition="dirichlet", clients=4, rounds=3,
    finetune_at=1, save_models="clients", checkpoint_every=2, eval_every=2,
  )  # fmt: skip
  over = {"seed": (0, 1), "quped.lambda_p": (0.2, 0.6)}
  check_as_one_after_the_other(base, over, tmp_path)


def test_all_runs_are_traced_and_compiled_once(compiled, monkeypatch):
  traced = []
  make = qj.create_model("mlp", 10, features=(8,))

  def apply(*args):
    traced.append(args)
    return make.apply(*args)

  counts = []
  for seeds in (2, 5):
    traced.clear()
    compiled.clear()
    model = make._replace(apply=apply)
    at_once(BASE, {"seed": range(seeds)}, model=model)
    counts.append((len(compiled), len(set(compiled))))
  # Initial states, rounds, evaluation; and to stack states and to take one out.
  assert counts == [(6, 6)] * 2


@pytest.mark.slow
def test_runs_that_stop_after_other_rounds_go_in_turn(compiled, tmp_path):
  over = {"rounds": (1, 2), "seed": (0, 1)}
  check_as_one_after_the_other(BASE, over, tmp_path)
  rounds = [x for x in compiled if x.memory == max(y.memory for y in compiled)]
  assert len(rounds) == 1


class Ends(qj.Display):
  """Ends all runs when they have gone through some rounds."""

  after = 1

  def together(self, label):
    del label
    return self

  def show(self, method, rounds):
    del method, rounds

    class Showing:
      def __enter__(self):
        return self.update

      def __exit__(self, *_):
        pass

      def update(self, round_, *_):
        if round_ == Ends.after:
          signal.raise_signal(signal.SIGINT)

    return Showing()


def interrupted(base, over, folder, monkeypatch, strategy):
  """Ends a sweep during its second round."""
  from quped_jax.experiment import sweep as sweep_lib

  with monkeypatch.context() as patch:
    patch.setattr(sweep_lib, "Display", lambda **_: Ends(quiet=True))
    with pytest.raises(qj.Interrupted) as caught:
      quietly(base, over, folder, run_strategy=strategy)
  return str(caught.value)


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


@pytest.mark.slow
def test_runs_go_in_parts_where_memory_has_no_room(monkeypatch, tmp_path):
  sizes_made = []
  make = run_axis.RunAxis.__init__

  def count(self, backend, runs, common=()):
    sizes_made.append(runs)
    make(self, backend, runs, common)

  monkeypatch.setattr(run_axis.RunAxis, "__init__", count)
  whole = at_once(BASE, {"seed": range(5)}, tmp_path / "whole")
  (one,) = quietly(BASE, {"seed": (0,)})
  first, all_five = (
    run.summary["memory"]["estimated_round_bytes"]
    for run in (one, whole[0])
    if run.summary
  )
  # Tables of one run alone are shorter.
  room_for_three = first + 5 * (all_five - first) // 8
  monkeypatch.setattr(sizes, "memory_limit", lambda: room_for_three)
  parts = at_once(BASE, {"seed": range(5)}, tmp_path / "parts")
  assert sizes_made == [5, 3]
  for a, b in zip(parts, whole, strict=True):
    assert close(a.history, b.history)


@pytest.mark.slow
def test_fewer_go_at_once_when_memory_is_full_after_all(monkeypatch):
  """They go on from where they began; results are the same."""
  import jax

  expected = at_once(BASE, {"seed": range(4)})
  run = run_axis.RunAxis.run_rounds
  failed = []

  def full(self, *args):
    if self.runs > 2:
      failed.append(self.runs)
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
    return run(self, *args)

  monkeypatch.setattr(run_axis.RunAxis, "run_rounds", full)
  found = at_once(BASE, {"seed": range(4)})
  assert failed == [4]
  for a, b in zip(found, expected, strict=True):
    assert close(a.history, b.history)

  def never(self, *args):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

  monkeypatch.setattr(run_axis.RunAxis, "run_rounds", never)
  alone = at_once(BASE, {"seed": range(2)})
  for a, b in zip(alone, expected, strict=False):
    assert close(a.history, b.history)


def test_runs_over_several_devices_cannot_go_at_once(compiled):
  base = dataclasses.replace(BASE, devices=2)
  with pytest.raises(ValueError, match="run_strategy='vmap': must be 'one'"):
    at_once(base, {"seed": (0, 1)})
  with pytest.raises(ValueError, match="run_strategy='all': must be one of"):
    quietly(BASE, {"seed": (0, 1)}, run_strategy="all")
  assert not compiled
