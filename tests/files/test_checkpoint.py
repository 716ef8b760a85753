"""Runs resume whatever ended them, with the results of uninterrupted runs."""

import contextlib
import dataclasses
import errno
import json
import linecache
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.files import checkpoint
from quped_jax.files.checkpoint import Checkpoints
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
QUIET = qj.Display(quiet=True)
COSTS = ("timing", "memory")
FILES = ("metrics.jsonl", "clients.csv", "config.json")

# How often a run is killed; many more kills take an hour.
KILLS = int(os.environ.get("QUPED_KILLS", "3"))

STATE = {
  "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
  "none": np.zeros((0, 4), np.float32),
  "key": np.array([1, 2], np.uint32),
  "yes": np.array(True),
  "half": np.asarray(jnp.array([1.5, -0.0], jnp.bfloat16)),
}


def shapes(progress):
  del progress
  return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, STATE))


def equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).dtype == np.asarray(y).dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(folder, rounds=(5,), keep=2, values=None, **identity):
  found = Checkpoints(folder, {"seed": 0, **identity}, keep)
  for i, round_ in enumerate(rounds):
    value = None if values is None else values[i]
    found.save(round_, STATE, {"history": [round_, float("nan")]}, value)
  return found


def latest(found):
  """The latest checkpoint, which must exist."""
  checkpoint = found.latest(shapes)
  assert checkpoint is not None
  return checkpoint


def names(folder):
  return sorted(x.name for x in (folder / "checkpoints").iterdir())


def test_what_is_saved_is_what_is_found(tmp_path):
  found = latest(saved(tmp_path))
  assert found.round == 5
  equal(found.state, STATE)
  assert found.progress["history"][0] == 5
  assert Checkpoints(tmp_path / "other", {}).latest(shapes) is None
  # States in host memory are written in place.
  found.state["weights"][0] = 7.0


def test_the_latest_and_the_best_are_kept(tmp_path):
  values = [0.1, 0.9, 0.3, None, 0.5]
  saved(tmp_path, [1, 2, 3, 4, 5], values=values)
  assert names(tmp_path) == [f"round_0000000{i}" for i in (2, 4, 5)]
  other = tmp_path / "other"
  saved(other, [1, 2, 3], keep=1)
  assert names(other) == ["round_00000003"]


def every_file(folder):
  return sorted(x for x in folder.rglob("*") if x.is_file())


def test_a_flipped_bit_anywhere_gives_a_checkpoint_away(tmp_path):
  saved(tmp_path / "whole", [1, 2])
  newest = pathlib.Path("checkpoints") / "round_00000002"
  draw = random.Random(0)
  for file in every_file(tmp_path / "whole" / newest):
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "whole", damaged)
    path = damaged / file.relative_to(tmp_path / "whole")
    content = bytearray(path.read_bytes())
    if not content:
      shutil.rmtree(damaged)
      continue
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="round_00000002' is damaged"):
      found = latest(Checkpoints(damaged, {"seed": 0}))
    assert found.round == 1
    equal(found.state, STATE)
    assert "round_00000002.damaged" in names(damaged)
    shutil.rmtree(damaged)


@pytest.mark.parametrize("how", ["cut", "gone", "more", "empty"])
def test_a_checkpoint_that_is_not_whole_is_not_used(tmp_path, how):
  found = saved(tmp_path, [1, 2])
  path = tmp_path / "checkpoints" / "round_00000002"
  file = max(every_file(path), key=lambda x: x.stat().st_size)
  if how == "cut":
    file.write_bytes(file.read_bytes()[:-1])
  elif how == "gone":
    file.unlink()
  elif how == "more":
    (path / "state" / "more").write_text("")
  else:
    shutil.rmtree(path)
    path.mkdir()
  with pytest.warns(UserWarning, match="is damaged") as warned:
    assert latest(found).round == 1
  # It points two calls up: in a run, to the line that asked to resume.
  line = linecache.getline(warned[0].filename, warned[0].lineno)
  assert "latest(found).round == 1" in line


def test_if_none_is_whole_the_run_is_refused(tmp_path):
  found = saved(tmp_path)
  (tmp_path / "checkpoints" / "round_00000005" / "progress.json").unlink()
  with (
    pytest.warns(UserWarning, match="is damaged"),
    pytest.raises(ValueError, match=r"must have .* whole.*round_00000005"),
  ):
    found.latest(shapes)


def test_checkpoints_of_another_run_are_refused(tmp_path):
  saved(tmp_path, method="quped")
  other = Checkpoints(tmp_path, {"seed": 1, "method": "quped"})
  with pytest.raises(ValueError, match="seed is 0 there and 1 here$"):
    other.latest(shapes)
  same = Checkpoints(tmp_path, {"seed": 0, "method": "quped"})

  def another(progress):
    return {**shapes(progress), "key": jax.ShapeDtypeStruct((3,), np.uint32)}

  with pytest.raises(ValueError, match="must be of this federation"):
    same.latest(another)


def test_one_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
  found = saved(tmp_path, [1])

  def full(*_):
    raise RuntimeError("No space left on device")

  monkeypatch.setattr(shutil, "disk_usage", full)
  with pytest.raises(OSError, match="No space left"):
    found.save(2, STATE, {})
  assert names(tmp_path) == ["round_00000001"]
  assert latest(found).round == 1


def test_an_error_of_the_system_stays_what_it_is(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.EDQUOT, "Disk quota exceeded")

  monkeypatch.setattr(shutil, "disk_usage", full)
  with pytest.raises(OSError, match="Disk quota exceeded") as caught:
    Checkpoints(tmp_path, {}).save(2, STATE, {})
  assert caught.value.errno == errno.EDQUOT


def test_a_checkpoint_whose_value_cannot_be_read_is_not_the_best(tmp_path):
  found = saved(tmp_path, [1, 2], values=[0.9, 0.1], keep=1)
  broken = tmp_path / "checkpoints" / "round_00000001" / "progress.json"
  broken.write_text("{")
  found.save(3, STATE, {"history": []}, 0.5)
  assert names(tmp_path) == ["round_00000003"]


def test_a_disk_without_space_is_an_error_and_is_not_filled(
  tmp_path, monkeypatch
):
  found = saved(tmp_path, [1])
  (tmp_path / "checkpoints" / "round_00000002.part" / "state").mkdir(
    parents=True
  )
  with monkeypatch.context() as patch:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    patch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="1,048,576 bytes, of 1,048,6"):
      found.save(3, STATE, {})
  assert names(tmp_path) == ["round_00000001"]
  found.save(3, STATE, {"history": []})
  assert latest(found).round == 3


def test_a_workdir_in_use_is_refused(tmp_path):
  with (
    checkpoint.lock(tmp_path),
    pytest.raises(ValueError, match="workdir=.*: must not be in use"),
  ):
    begin = time.monotonic()
    try:
      checkpoint.lock(tmp_path)
    finally:
      # Without waiting for the other run.
      assert time.monotonic() - begin < 0.9
  with checkpoint.lock(tmp_path):
    pass


# Runs that are stopped midway, in this process.


class StopError(Exception):
  """Ends a run in these tests."""


class StopsAfter(qj.Display):
  """Ends a run when it reports a round."""

  def __init__(self, round_):
    super().__init__(quiet=True)
    self._round = round_

  def show(self, method, rounds):
    def update(round_, record=None, seconds=None):
      del record, seconds
      if round_ >= self._round:
        raise StopError

    return contextlib.nullcontext(update)


def results(workdir):
  summary = json.loads((workdir / "summary.json").read_text())
  kept = {k: v for k, v in summary.items() if k not in COSTS}
  return [kept, *((workdir / name).read_bytes() for name in FILES)]


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
        (2, {}),
        (4, {"client_state": "host", "clients_per_block": 2}),
        (3, {"finetune_at": 3, "method": "local"}),
        (4, {"devices": 2, "clients_per_round": 3, "method": "fedavg"}),
        (4, {"client_state": "disk", "clients_per_block": 2, "finetune_at": 2}),
        (4, {"strategy": "dispatch", "dropout": 0.3}),
        (4, {"learning_rate": (1e6, 0.05)}),
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
  equal(
    first.simulation.export(first.state), second.simulation.export(second.state)
  )


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


def test_a_finished_run_is_found_finished(tmp_path):
  given = settings("fedavg")
  federation = tiny.make_federation(tiny.COUNTS[:5])
  qj.run(given, tmp_path, federation=federation, display=QUIET)
  before = results(tmp_path)
  again = qj.run(given, tmp_path, federation=federation, display=QUIET)
  assert results(tmp_path) == before
  assert again.simulation.program.compilations == 0


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
  assert names(tmp_path) == ["round_00000004"]


class StopsProcess(qj.Display):
  """Sends its own process a signal when a run reports its last round."""

  def show(self, label, rounds):
    del label

    def update(round_, record=None, seconds=None):
      del record, seconds
      if round_ == rounds:
        signal.raise_signal(signal.SIGTERM)

    return contextlib.nullcontext(update)


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
    assert names(tmp_path)[-1] == "round_00000003"
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


@pytest.mark.slow
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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
