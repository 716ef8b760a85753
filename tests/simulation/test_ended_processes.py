"""What becomes of several processes if one of them ends, and after."""

import signal
import subprocess
import time

import pytest

from tests.simulation.commands import (
  SETTINGS,
  SHORT,
  finish,
  free_port,
  read,
  start,
)


@pytest.mark.long
def test_processes_that_are_killed_or_stopped_go_on_together(tmp_path):
  settings = (
    *SETTINGS,
    "--config.rounds=200",
    "--config.eval_every=20",
    "--config.checkpoint_every=5",
    "--config.save_models=none",
  )

  def both(workdir):
    together = f"--coordinator=localhost:{free_port()}", "--num_processes=2"
    return [
      start(*settings, f"--workdir={workdir}", *together, f"--process_id={i}")
      for i in range(2)
    ]

  def wait(process, lines):
    path = broken / "metrics.jsonl"
    while process.poll() is None:
      if path.exists() and path.read_text().count("\n") >= lines:
        return
      time.sleep(0.01)

  whole, broken = tmp_path / "whole", tmp_path / "broken"
  for code, _, err in map(finish, both(whole)):
    assert code == 0, err
  started = both(broken)
  wait(started[0], 1)
  for process in started:
    process.kill()
    finish(process)
  started = both(broken)
  wait(started[0], 4)
  # Either of them would do: JAX tells the other.
  started[1].send_signal(signal.SIGTERM)
  for code, _, err in map(finish, started):
    assert code == 128 + signal.SIGTERM, err
    assert "stopped by SIGTERM: round" in err
  (_, out, err), (_, _, other) = map(finish, both(broken))
  assert "goes on after round" in out, (err, other)
  (summary, lines), (again, others) = read(whole), read(broken)
  assert lines == others
  for name in ("accuracy", "held_out_clients", "best_round"):
    assert summary[name] == again[name]


@pytest.mark.long
def test_any_number_of_processes_goes_on_with_states_anywhere(tmp_path):
  """Two are killed, go on with states on disk, and one reads their states."""
  settings = (
    *SHORT,
    "--config.method=scaffold",  # whose clients have states
    "--config.clients_per_round=3",
    "--config.rounds=300",
    "--config.eval_every=50",
    "--config.checkpoint_every=5",
  )

  def both(workdir, where):
    together = (
      f"--workdir={workdir}",
      f"--config.client_state={where}",
      f"--coordinator=localhost:{free_port()}",
      "--num_processes=2",
    )
    return [start(*settings, *together, f"--process_id={i}") for i in range(2)]

  whole, broken = tmp_path / "whole", tmp_path / "broken"
  for code, _, err in map(finish, both(whole, "host")):
    assert code == 0, err
  started = both(broken, "host")
  while not list(broken.glob("checkpoints/*5/manifest.json")):
    assert started[0].poll() is None
    time.sleep(0.01)
  for process in started:
    process.kill()
    finish(process)
  (_, out, err), (_, _, other) = map(finish, both(broken, "disk"))
  assert "goes on after round" in out, (err, other)
  (summary, lines), (again, others) = read(whole), read(broken)
  assert lines == others and summary["accuracy"] == again["accuracy"]
  parts = broken.glob("checkpoints/round_00000300/clients_*")
  assert sorted(x.name for x in parts) == ["clients_00000", "clients_00001"]
  code, out, err = finish(start(*settings, f"--workdir={broken}"))
  assert code == 0 and "goes on after round 300" in out, err
  assert read(broken)[0]["accuracy"] == again["accuracy"]


@pytest.fixture
def start_two():
  """Starts two processes, which do not outlive the test."""
  started = []

  def start_two(workdir, *of_second, settings=SHORT):
    together = f"--coordinator=localhost:{free_port()}", "--num_processes=2"
    common = (*settings, f"--workdir={workdir}", *together)
    two = (
      start(*common, "--process_id=0"),
      start(*common, "--process_id=1", *of_second),
    )
    started.extend(two)
    return two

  yield start_two
  for process in started:
    with process:
      process.kill()


@pytest.mark.slow
def test_processes_with_different_settings_are_told_which(tmp_path, start_two):
  different = "--config.seed=7", "--config.rounds=3", "--restart"
  for code, _, err in map(finish, start_two(tmp_path / "run", *different)):
    assert (code, err) == (
      2,
      "error: process 1: restart=True: must be False, as in process 0; "
      "rounds=3: must be 40, as in process 0; seed=7: must be 0, as in process "
      "0\n",
    )
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_mistake_in_one_process_ends_the_others(tmp_path, start_two):
  mistake = "steps=0: must be at least 1"
  first, second = start_two(tmp_path / "run", "--config.steps=0")
  assert finish(second)[::2] == (2, f"error: {mistake}\n")
  began = time.monotonic()
  code, _, err = finish(first)
  assert (code, err) == (1, f"error: process 1 has ended: {mistake}\n")
  assert time.monotonic() - began < 60


@pytest.mark.slow
def test_processes_end_together_whatever_ends_one(tmp_path, start_two):
  """Ctrl-C to one; and the same command again, where one is killed."""
  settings = (*SHORT, "--config.rounds=1000000")
  folder = tmp_path / "run"

  def saved():
    manifests = (folder / "checkpoints").glob("round_*[0-9]/manifest.json")
    return {int(x.parent.name.removeprefix("round_")) for x in manifests}

  def go_on():
    before = saved()
    started = start_two(folder, settings=settings)
    while saved() <= before and not any(map(subprocess.Popen.poll, started)):
      time.sleep(0.05)
    return started

  started = go_on()
  began = time.monotonic()
  started[1].send_signal(signal.SIGINT)
  for code, _, err in map(finish, started):
    assert code == 128 + signal.SIGINT, err
    assert "stopped by SIGINT: round" in err
  assert time.monotonic() - began < 60
  # The round is no multiple of 100 as a rule: it was saved for the signal.
  last = max(saved())
  assert f"stopped by SIGINT: round {last} is saved" in err

  for killed in (0, 1):
    started = go_on()
    began = time.monotonic()
    started[killed].kill()
    ends = [finish(process) for process in started]
    assert time.monotonic() - began < 60
    assert f"goes on after round {last}" in ends[0][1]
    code, _, err = ends[1 - killed]
    assert (code, err.count("\n")) == (1, 1), err
    lost = f"error: process {killed} has ended without a word"
    assert err.startswith(lost) and f"is saved in {folder}" in err
    last = max(saved())
