"""Several processes that simulate one federation, really started."""

import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from quped_jax.simulation import processes
from tests.simulation.commands import (
  SETTINGS,
  finish,
  free_port,
  read,
  read_lines,
  start,
)


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
