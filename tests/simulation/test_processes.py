"""Several processes that simulate one federation, really started."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from quped_jax.simulation import processes

ROOT = pathlib.Path(__file__).parents[2]


def free_port():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def start(*args):
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.federated", *args],
    cwd=ROOT,
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


SETTINGS = (
  "--config=configs/digits.py",
  "--config.clients=5",  # does not divide: one slot of three is empty
  "--config.held_out_clients=2",
  "--config.clients_per_round=4",
  "--config.bits=1,2",
  "--config.rounds=2",
  "--config.steps=3",
  "--config.save_models=clients",
)


SHORT = (
  "--config=configs/digits.py",
  "--config.method=fedavg",
  "--config.clients=4",
  "--config.bits=32",
  "--config.figures=False",
  "--config.steps=1",
  "--config.batch_size=8",
  "--config.eval_every=100",
  "--config.checkpoint_every=100",
)


def read(folder):
  summary = json.loads((folder / "summary.json").read_text())
  return summary, read_lines(folder / "metrics.jsonl")


def read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
  "where",
  [
    "device",
    *(pytest.param(x, marks=pytest.mark.long) for x in ("host", "disk")),
  ],
)
def test_two_processes_get_the_result_of_one(tmp_path, where):
  port = free_port()
  folders = [tmp_path / name for name in ("one", "first", "second")]
  together = (
    f"--config.client_state={where}",
    f"--coordinator=localhost:{port}",
    "--num_processes=2",
  )
  started = [
    # The only client of one bit is the second process's.
    start(*SETTINGS, "--config.bits=2,2,2,1", f"--workdir={folder}", *more)
    for folder, more in zip(
      folders,
      ((), (*together, "--process_id=0"), (*together, "--process_id=1")),
      strict=True,
    )
  ]
  ends = [finish(process) for process in started]
  for code, _, err in ends:
    assert code == 0, err
  # Only the first process writes and prints.
  assert "round 2/2" in ends[1][1] and "round" not in ends[2][1]
  # States on disk are removed at the end.
  assert not list(folders[1].glob("clients*/*"))
  assert not list(folders[2].glob("*"))
  (alone, lines), (shared, others) = map(read, folders[:2])
  assert shared["timing"]["devices"] == 2
  for split in ("accuracy", "held_out_clients"):
    for variant, spread in alone[split].items():
      assert shared[split][variant] == pytest.approx(spread, abs=0.02)
  # Each has the samples of its clients (3 of 5), and tables of all.
  files = [
    {path.name: path.stat().st_size for path in (folder / "models").iterdir()}
    for folder in folders[:2]
  ]
  assert len(files[0]) == 6 and files[0] == files[1]
  memory = alone["memory"]["data_bytes"], shared["memory"]["data_bytes"]
  assert memory[1] < 0.75 * memory[0]
  for line, other in zip(lines, others, strict=True):
    assert other == pytest.approx(line, rel=1e-4, abs=1e-2)
  looks = [read_lines(folder / "figures.jsonl") for folder in folders[:2]]
  for own, shared in zip(*looks, strict=True):
    assert own["client"] == shared["client"] == 3
    (tensor,), (other,) = own["tensors"].values(), shared["tensors"].values()
    assert other["levels"] == pytest.approx(tensor["levels"], abs=1e-3)
    assert sum(other["counts"]) == sum(tensor["counts"]) == 64 * 64
  assert (folders[1] / "figures" / "levels.png").exists()


@pytest.mark.slow
def test_a_process_that_does_not_come_is_an_error_and_no_hang():
  port = free_port()
  together = (
    "--workdir=unused",
    f"--coordinator=localhost:{port}",
    "--num_processes=3",
    "--process_timeout=15",
  )
  started = [start(*together, f"--process_id={i}") for i in (0, 1)]
  (code, _, first), (other_code, _, second) = map(finish, started)
  assert code == other_code == 2
  assert "process_id=[2]: must answer within 15 s" in first
  assert second.startswith("error: ")


def test_nobody_at_the_coordinator_is_an_error():
  with pytest.raises(ValueError, match="coordinator='localhost:.*process 0"):
    processes.join(f"localhost:{free_port()}", 2, 1, timeout=0.5)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (("localhost:99", 0, 0), "num_processes=0: must be at least 1"),
    (("localhost:99", 2, 2), "process_id=2: must be from 0 to 1"),
    (("localhost:99", 2, -1), "process_id=-1: must be from 0 to 1"),
    (("localhost", 2, 0), "coordinator='localhost': must be host:port"),
    (("localhost:x", 2, 0), "coordinator='localhost:x': must be host:port"),
    ((":99", 2, 0), "coordinator=':99': must be host:port"),
  ],
)
def test_wrong_arguments_are_errors(args, message):
  with pytest.raises(ValueError, match=message):
    processes.join(*args)


def test_a_port_that_is_taken_is_an_error():
  with socket.create_server(("", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f"coordinator='localhost:{port}': "):
      processes.join(f"localhost:{port}", 2, 0, timeout=0.5)


@pytest.mark.slow
def test_processes_that_disagree_are_told():
  """Three are expected; one comes twice, one expects two, one is a stranger."""
  port = free_port()
  coordinator = f"localhost:{port}"

  def join(process_id, num_processes=3, timeout=5.0):
    try:
      processes.join(coordinator, num_processes, process_id, timeout=timeout)
    except ValueError as error:
      return str(error)
    return ""

  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(join, 0)
    others = [pool.submit(join, 1, timeout=9.0) for _ in range(2)]
    assert "num_processes=2: must be 3" in join(1, num_processes=2, timeout=9.0)
    with socket.create_connection(("localhost", port), timeout=9.0) as stranger:
      stranger.sendall(b'"hello"\n')
      told = json.loads(stranger.makefile().readline())
    assert told == "not a process of this run"
    answers = sorted(other.result() for other in others)
    # The third process does not come at all.
    assert "process_id=[2]: must answer within 5 s" in first.result()
  assert answers == [
    "process_id=1: is taken by another process",
    "process_id=[2]: did not answer",
  ]


def ask(coordinator_port, report):
  """What process 0 answers to a report."""
  address = "localhost", coordinator_port
  with socket.create_connection(address, timeout=9.0) as connection:
    connection.sendall(report)
    return json.loads(connection.makefile().readline() or "null")


@pytest.fixture
def first_of_three():
  """The port of a process 0 that waits for two others."""
  port = free_port()

  def join():
    with pytest.raises(ValueError, match="must answer within 2 s"):
      processes.join(f"localhost:{port}", 3, 0, timeout=2.0)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    waiting = pool.submit(join)
    for _ in range(200):
      with contextlib.suppress(OSError):
        socket.create_connection(("localhost", port)).close()
        break
      time.sleep(0.01)
    yield port
    waiting.result()


def test_strangers_that_say_nothing_keep_nobody_waiting(first_of_three):
  address = "localhost", first_of_three
  with (
    socket.create_connection(address),
    socket.create_connection(address) as slow,
  ):
    slow.sendall(b'{"process')
    began = time.monotonic()
    with pytest.raises(ValueError, match="num_processes=2: must be 3"):
      processes.join(f"localhost:{first_of_three}", 2, 1, timeout=2.0)
    assert time.monotonic() - began < 1.5


def test_a_process_id_out_of_range_is_refused(first_of_three):
  for process_id in (-1, 0, 3, True, 1.0, "1", None, [1]):
    told = {"process_id": process_id, "processes": 3}
    answer = ask(first_of_three, json.dumps(told).encode() + b"\n")
    assert answer == (
      f"process_id={process_id!r}: must be from 1 to 2, beside process 0"
    )


def test_what_is_no_report_is_refused(first_of_three):
  for text in (b"GET / HTTP/1.1\r\n", b"\n", b"\xff\n", b"[1]\n", 300 * b"x"):
    assert ask(first_of_three, text) == "not a process of this run"


def test_a_process_that_left_while_waiting_may_come_again(first_of_three):
  address = "localhost", first_of_three
  report = json.dumps({"process_id": 1, "processes": 3}).encode() + b"\n"
  for _ in range(2):
    with socket.create_connection(address, timeout=0.2) as connection:
      connection.sendall(report)
      with pytest.raises(TimeoutError):  # It waits for the third.
        connection.recv(1)


def test_a_single_process_has_nobody_to_agree_with():
  processes.check_same({"seed": 1})
  with processes.together() as set_note:
    set_note(lambda: "")
  processes.leave(1, "nothing to leave")


class Told:
  """Links over which all processes are told the same."""

  def __init__(self, *values):
    self.values = values

  def exchange(self, value):
    return [value, *self.values]


@pytest.mark.parametrize(
  ("other", "message"),
  [
    ([{"seed": 1, "quped": {"lambda_p": 2}}, {"data": "x"}], None),
    (
      [{"seed": 7, "quped": {"lambda_p": 2}}, {"data": "y"}],
      "process 2: seed=7: must be 1, as in process 0",
    ),
    (
      [{"seed": 1, "quped": {"lambda_p": 3}}, {"data": "x"}],
      "process 2: quped.lambda_p=3: must be 2, as in process 0",
    ),
    (
      [{"seed": 1, "quped": {"lambda_p": 2}}, {"data": "y"}],
      "process 2: data='y': must be 'x', as in process 0",
    ),
    (
      [{"seed": 1.0, "quped": {}}, {}],
      "process 2: quped.lambda_p=None: must be 2, as in process 0; seed=1.0: "
      "must be 1, as in process 0",
    ),
  ],
)
def test_the_process_and_the_field_that_differ_are_named(
  monkeypatch, other, message
):
  own = [{"seed": 1, "quped": {"lambda_p": 2}}, {"data": "x"}]
  monkeypatch.setattr(processes, "_links", Told(own, other))
  if message is None:
    processes.check_same(*own)
    return
  with pytest.raises(processes.DisagreementError) as caught:
    processes.check_same(*own)
  assert str(caught.value) == message


def test_one_process_needs_no_others():
  processes.join("localhost:99", 1, 0)
  assert processes.is_first()


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
