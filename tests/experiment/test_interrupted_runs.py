"""Runs resume whatever ended them, with the results of uninterrupted runs."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import quped_jax as qj
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
QUIET = qj.Display(quiet=True)
COSTS = ("timing", "memory")
FILES = ("metrics.jsonl", "clients.csv", "config.json", "figures.jsonl")


# How often a run is killed; many more kills take an hour.
KILLS = int(os.environ.get("QUPED_KILLS", "2"))


# Runs that are stopped midway, in this process.


class StopError(BaseException):
  """Ends a run in these tests as if it had been killed."""


class StopsAfter(qj.Display):
  """Ends a run when it reports a round."""

  def __init__(self, round_):
    super().__init__(quiet=True)
    self._round = round_

  def _reported(self, round_):
    if round_ >= self._round:
      raise StopError

  def on_rounds(self, first, last):
    self._reported(first - 1)

  def on_evaluation(self, evaluation):
    self._reported(evaluation.round)


def results(workdir):
  summary = json.loads((workdir / "summary.json").read_text())
  kept = {k: v for k, v in summary.items() if k not in COSTS}
  return [kept, *((workdir / name).read_bytes() for name in FILES)]


def checkpoints(workdir):
  return sorted(x.name for x in (workdir / "checkpoints").iterdir())


def settings(method="quped", **changes):
  return tiny.make_settings(
    method,
    5,
    **{
      "bits": (1, 32),
      "rounds": 6,
      "eval_every": 2,
      "checkpoint_every": 1,
      "validation_fraction": 0.2,
      **changes,
    },
  )


@pytest.mark.parametrize(
  ("stop", "changes"),
  [
    (3, {"finetune_at": 2}),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [
        (4, {"client_state": "disk", "clients_per_block": 2, "finetune_at": 2}),
      ]
    ),
    *(
      pytest.param(*case, marks=pytest.mark.long)
      for case in [
        (4, {"learning_rate": (1e6, 0.05)}),
        (2, {}),
        (4, {"devices": 2, "clients_per_round": 3, "method": "fedavg"}),
        (4, {"client_state": "host", "clients_per_block": 2}),
        (3, {"finetune_at": 3, "method": "local"}),
        (4, {"strategy": "dispatch", "dropout": 0.3}),
        (3, {"model": "with_dropout", "hidden": ()}),
        (
          4,
          {
            "compression": "sign",
            "client_state": "host",
            "clients_per_block": 2,
            "finetune_at": 2,
          },
        ),
      ]
    ),
  ],
)
@pytest.mark.filterwarnings("ignore:round .* diverged")
def test_a_run_that_was_ended_goes_on_to_the_same_end(tmp_path, stop, changes):
  given = settings(**changes)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  first = qj.run(given, whole, federation=federation, display=QUIET)
  with pytest.raises(StopError):
    qj.run(given, broken, federation=federation, display=StopsAfter(stop))
  assert not (broken / "summary.json").exists()
  # As if it had been killed in the middle of a line.
  with (broken / "metrics.jsonl").open("a") as file:
    file.write('{"round": 99, "lo')
  second = qj.run(given, broken, federation=federation, display=QUIET)
  assert results(whole) == results(broken)
  assert first.history == second.history
  tiny.assert_same_bits(
    first.simulation.export(first.state), second.simulation.export(second.state)
  )


@pytest.mark.slow
def test_a_run_that_a_full_disk_ended_goes_on_when_there_is_space(tmp_path):
  given = settings("fedavg", rounds=4, eval_every=4)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  broken.mkdir()
  (broken / "metrics.jsonl").symlink_to("/dev/full")
  qj.run(given, whole, federation=federation, display=QUIET)
  with pytest.raises(OSError, match="No space left") as error:
    qj.run(given, broken, federation=federation, display=QUIET)
  assert error.value.__notes__[0].startswith("round 3 is saved in ")
  (broken / "metrics.jsonl").unlink()
  qj.run(given, broken, federation=federation, display=QUIET)
  assert results(whole) == results(broken)


@pytest.mark.slow
def test_a_finished_run_is_found_finished(tmp_path):
  given = settings("fedavg")
  federation = tiny.make_federation(tiny.COUNTS[:5])
  qj.run(given, tmp_path, federation=federation, display=QUIET)
  before = results(tmp_path)
  again = qj.run(given, tmp_path, federation=federation, display=QUIET)
  assert results(tmp_path) == before
  assert again.simulation.program.compilations == 0


@pytest.mark.slow
def test_another_run_in_the_workdir_is_refused_or_begun_anew(tmp_path):
  given = settings("local", rounds=2)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  qj.run(given, tmp_path, federation=federation, display=QUIET)
  other = dataclasses.replace(given, seed=3)
  before = results(tmp_path)
  with pytest.raises(ValueError, match="seed is 0 there and 3 here"):
    qj.run(other, tmp_path, federation=federation, display=QUIET)
  assert results(tmp_path) == before
  elsewhere = dataclasses.replace(given, data_dir="/nowhere", devices=1)
  qj.run(elsewhere, tmp_path, federation=federation, display=QUIET)
  # What may change when a run goes on is written down as it is now.
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["data_dir"] == "/nowhere" and config["devices"] == 1
  qj.run(other, tmp_path, federation=federation, display=QUIET, resume=False)
  assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


@pytest.mark.filterwarnings("ignore:round .* diverged")
def test_the_state_of_clients_that_all_diverged_is_saved(tmp_path):
  given = settings("fedavg", learning_rate=(1e9,), bits=(32,))
  federation = tiny.make_federation(tiny.COUNTS[:5])
  with pytest.raises(qj.DivergenceError):
    qj.run(
      dataclasses.replace(given, checkpoint_every=0),
      tmp_path,
      federation=federation,
      display=QUIET,
    )
  assert checkpoints(tmp_path) == ["round_00000004"]


class StopsProcess(qj.Display):
  """Sends its own process a signal when a run reports its last round."""

  def on_begin(self, start):
    self._last = start.settings.rounds

  def on_evaluation(self, evaluation):
    if evaluation.round == self._last:
      signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_signal_in_the_last_rounds_ends_a_run_too(tmp_path):
  given = settings("fedavg", rounds=2, checkpoint_every=0)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  qj.run(given, whole, federation=federation, display=QUIET)
  message = "SIGTERM: round 2 is saved in .*, and the same command without"
  with pytest.raises(qj.Interrupted, match=message):
    display = StopsProcess(quiet=True)
    qj.run(given, broken, federation=federation, display=display, resume=False)
  qj.run(given, broken, federation=federation, display=QUIET)
  assert results(whole) == results(broken)


class Raises(qj.Display):
  """Has something happen when a run reports an evaluation."""

  def __init__(self, action):
    super().__init__(quiet=True)
    self._action = action

  def on_evaluation(self, evaluation):
    self._action()


def interrupt():
  raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize(
  "action", [lambda: signal.raise_signal(signal.SIGINT), interrupt]
)
def test_ctrl_c_is_said_in_a_line_and_shows_nothing_of_jax(
  tmp_path, action, saves
):
  given = settings("fedavg", rounds=4)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  with pytest.raises(KeyboardInterrupt) as caught:
    workdir = tmp_path if saves else None
    qj.run(given, workdir, federation=federation, display=Raises(action))
  # Its caller's frame and its own.
  assert len(caught.traceback) == 2
  assert caught.value.__suppress_context__
  at_once = action is interrupt
  # What is raised comes before the checkpoint of the round.
  saved = (
    f"round {1 if at_once else 2} is saved in" if saves else "no check.* is"
  )
  assert re.match(f"stopped by SIGINT: {saved} ", str(caught.value))
  assert isinstance(caught.value, qj.Interrupted) is not at_once


@pytest.mark.slow
def test_states_on_disk_are_gone_when_a_run_has_ended(tmp_path):
  given = settings(client_state="disk", rounds=4, checkpoint_every=2)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  seen = []

  def look():
    seen.append(len(list((tmp_path / "clients").rglob("*.npy"))))
    if len(seen) == 1:
      raise StopError

  for _ in range(2):
    with contextlib.suppress(StopError):
      done = qj.run(
        given, tmp_path, federation=federation, display=Raises(look)
      )
    assert not (tmp_path / "clients").exists()
  assert seen[0] and seen[1]
  # The result still has them.
  learner = qj.client_state(done.state, 0)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(learner.params))


@pytest.mark.slow
def test_an_empty_workdir_is_refused_and_an_odd_one_is_not(
  tmp_path, monkeypatch
):
  given = settings("fedavg", rounds=2)
  federation = tiny.make_federation(tiny.COUNTS[:5])
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(ValueError, match="workdir='': must not be empty"):
    qj.run(given, "", federation=federation, display=QUIET)
  assert not list(tmp_path.iterdir())
  for _ in range(2):
    qj.run(given, "~/run [lr=0.1]", federation=federation, display=QUIET)
  assert [x.name for x in tmp_path.iterdir()] == ["run [lr=0.1]"]
  assert checkpoints(tmp_path / "run [lr=0.1]")


@pytest.mark.slow
def test_another_trace_in_the_same_file_is_another_run(tmp_path):
  trace = tmp_path / "trace.csv"
  trace.write_text("round,client\n0,0\n1,1\n")
  given = settings("fedavg", rounds=2, participation_trace=str(trace))
  federation = tiny.make_federation(tiny.COUNTS[:5])
  workdir = tmp_path / "run"
  qj.run(given, workdir, federation=federation, display=QUIET)
  trace.write_text("round,client\n0,0\n1,2\n")
  with pytest.raises(ValueError, match="participation trace is"):
    qj.run(given, workdir, federation=federation, display=QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e9, (0.05, 1e9, 0.05, 0.05, 0.05)])
def test_a_run_that_divergence_ended_does_not_pass_when_called_again(
  tmp_path, rate
):
  """Neither if all diverge nor if none may and one does, in the last round."""
  alone = isinstance(rate, tuple)
  given = settings(
    "fedavg",
    rounds=3,
    eval_every=3,
    bits=(32,) * 5 if alone else (32,),
    learning_rate=rate if alone else (rate,),
    on_divergence="raise" if alone else "drop",
  )
  federation = tiny.make_federation(tiny.COUNTS[:5])
  for _ in range(2):
    with pytest.raises(qj.DivergenceError):
      qj.run(given, tmp_path, federation=federation, display=QUIET)
    assert checkpoints(tmp_path)[-1] == "round_00000003"
    assert not (tmp_path / "summary.json").exists()


# Runs that are really killed.

COMMAND = (
  sys.executable,
  "-m",
  "experiments.federated",
  "--config=configs/digits.py",
  "--config.clients=4",
  "--config.rounds=400",
  "--config.steps=5",
  "--config.eval_every=20",
  "--config.checkpoint_every=10",
  "--config.bits=1,32",
)


def start(workdir):
  return subprocess.Popen(
    [*COMMAND, f"--workdir={workdir}"],
    cwd=ROOT,
    env={
      **os.environ,
      "JAX_NUM_CPU_DEVICES": "1",
      # Half the time.
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for(process, workdir, lines):
  """Waits until the run has this many lines of metrics, or ends."""
  path = workdir / "metrics.jsonl"
  while process.poll() is None:
    if path.exists() and path.read_text().count("\n") >= lines:
      return
    time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  process = start(workdir)
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  return results(workdir)


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(
  tmp_path, uninterrupted
):
  draw, killed = random.Random(1), 0
  for i in range(KILLS):
    process = start(tmp_path)
    wait_for(process, tmp_path, 1 + 15 * (i + 1) // KILLS)
    time.sleep(draw.random() * 0.2)
    process.kill()
    process.communicate()
    killed += process.returncode == -signal.SIGKILL
  assert killed
  process = start(tmp_path)
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert results(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(
  "number",
  [
    signal.SIGTERM,
    pytest.param(signal.SIGINT, marks=pytest.mark.long),
    pytest.param(signal.SIGHUP, marks=pytest.mark.long),
  ],
)
def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path, uninterrupted, number):
  process = start(tmp_path)
  wait_for(process, tmp_path, 2)
  other = start(tmp_path)
  _, refused = other.communicate(timeout=600)
  assert other.returncode == 2 and "must not be in use" in refused
  process.send_signal(number)
  _, err = process.communicate(timeout=600)
  assert process.returncode == 128 + number, err
  assert f"stopped by {number.name}: round" in err
  assert "the same command goes on from there" in err
  process = start(tmp_path)
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert "goes on after round" in out
  assert results(tmp_path) == uninterrupted
