"""Who belongs to a run of several processes, before JAX's runtime begins.

All others report to process 0, which waits until they are complete. So a
process that is missing, that comes twice or that expects another number of
processes is named, where JAX would wait and then end them all.
"""

import contextlib
import json
import math
import selectors
import socket
import sys
import time
from typing import Any

from quped_jax.simulation.links import Line

# Seconds between two attempts to reach process 0.
_RETRY = 0.2
# Seconds after which process 0 says for whom it waits.
_PATIENCE = 20.0
# Seconds more than its timeout that process 0 is given to answer.
_GRACE = 5.0
# The most bytes of a report.
_REPORT_BYTES = 256

# Why a report is refused that is none.
_STRANGER = "not a process of this run"


def gather(
  server: socket.socket,
  coordinator: str,
  num_processes: int,
  *,
  timeout: float,
) -> dict[int, Line]:
  """In process 0: waits until all others have reported, then answers them.

  Args:
    server: listens at the coordinator's port.
    coordinator: its name in errors.
    num_processes: how many processes there are.
    timeout: seconds to wait.

  Returns:
    {process: the line to it}.

  Raises:
    ValueError: processes that did not report in time.
  """
  with _Gathering(server, num_processes) as gathering:
    missing = gathering.wait(time.monotonic() + timeout)
    if missing:
      gathering.answer(f"process_id={missing}: did not answer")
      raise ValueError(
        f"process_id={missing}: must answer within {timeout:g} s at "
        f"coordinator={coordinator!r}; num_processes={num_processes}"
      )
    gathering.answer("")
    return {i: Line(x) for i, x in gathering.release().items()}


class _Gathering:
  """The connections to process 0 until all processes have reported.

  All are listened to at once: one that says nothing, which is not of this run,
  keeps nobody waiting.
  """

  def __init__(self, server: socket.socket, num_processes: int):
    self._server, self._count = server, num_processes
    self._reported: dict[int, socket.socket] = {}
    self._heard: dict[socket.socket, bytes] = {}
    self._selector = selectors.DefaultSelector()

  def __enter__(self):
    self._selector.register(self._server, selectors.EVENT_READ)
    return self

  def __exit__(self, *_):
    self._selector.close()
    for connection in self._heard:
      connection.close()

  def wait(self, deadline: float) -> list[int]:
    """Waits until all have reported; returns those that did not in time."""
    patience = time.monotonic() + _PATIENCE
    while missing := sorted(set(range(1, self._count)) - set(self._reported)):
      now = time.monotonic()
      if now >= deadline:
        break
      if now >= patience:
        patience = math.inf
        text = f"waits for process_id={missing}, {deadline - now:.0f} s more"
        print(text, file=sys.stderr, flush=True)
      for key, _ in self._selector.select(min(deadline, patience) - now):
        if key.fileobj is self._server:
          self._accept()
        else:
          self._hear(key.fileobj)
    return missing

  def answer(self, text: str) -> None:
    """Answers all that have reported."""
    for connection in self._reported.values():
      _answer(connection, text)

  def release(self) -> dict[int, socket.socket]:
    """{process: its connection}, which stays open."""
    for connection in self._reported.values():
      del self._heard[connection]
    return self._reported

  def _accept(self) -> None:
    try:
      connection, _ = self._server.accept()
    except OSError:  # It has gone, or there are too many connections.
      self._drop_a_stranger()
      return
    connection.setblocking(False)
    self._heard[connection] = b""
    self._selector.register(connection, selectors.EVENT_READ)

  def _drop_a_stranger(self) -> None:
    """Closes the connection that has been silent for longest."""
    known = set(self._reported.values())
    for connection in self._heard:
      if connection not in known:
        self._drop(connection)
        return

  def _drop(self, connection: socket.socket) -> None:
    self._selector.unregister(connection)
    del self._heard[connection]
    connection.close()

  def _hear(self, connection: Any) -> None:
    try:
      text = connection.recv(_REPORT_BYTES)
    except OSError:
      text = b""
    self._heard[connection] += text
    report = self._heard[connection]
    if text and b"\n" not in report and len(report) < _REPORT_BYTES:
      return  # There is more to come.
    # A process that has reported says nothing more: it has ended, and another
    # may take its place.
    again = [i for i, x in self._reported.items() if x is connection]
    for i in again:
      del self._reported[i]
    told = _parsed(report)
    mistake = _mistake(told, self._count, self._reported)
    if text and not again and not mistake:
      self._reported[told["process_id"]] = connection
      return
    _answer(connection, mistake or _STRANGER)
    self._drop(connection)


def _parsed(report: bytes) -> Any:
  try:
    return json.loads(report)
  except ValueError:
    return None


def _mistake(told: Any, num_processes: int, known: Any) -> str:
  """What is wrong with a report; "" if nothing is."""
  if not isinstance(told, dict) or set(told) != {"process_id", "processes"}:
    return _STRANGER
  process_id, count = told["process_id"], told["processes"]
  if count != num_processes:
    return (
      f"num_processes={count!r}: must be {num_processes}, as process 0 has it"
    )
  if type(process_id) is not int or not 0 < process_id < num_processes:
    return (
      f"process_id={process_id!r}: must be from 1 to {num_processes - 1}, "
      "beside process 0"
    )
  if process_id in known:
    return f"process_id={process_id}: is taken by another process"
  return ""


def _answer(connection: socket.socket, text: str) -> None:
  with contextlib.suppress(OSError):  # It may have ended.
    connection.sendall(json.dumps(text).encode() + b"\n")


def report(
  coordinator: str,
  address: tuple[str, int],
  num_processes: int,
  process_id: int,
  *,
  timeout: float,
) -> Line:
  """In all others: reports to process 0, and waits until all have.

  Args:
    coordinator: the coordinator's name in errors.
    address: host and port of process 0.
    num_processes: how many processes there are.
    process_id: which one this is.
    timeout: seconds to wait for process 0, and then for the others.

  Returns:
    The line to process 0.

  Raises:
    ValueError: process 0 did not answer in time, or says what is wrong.
  """
  told = {"process_id": process_id, "processes": num_processes}
  deadline = time.monotonic() + timeout
  while (left := deadline - time.monotonic()) > 0:
    try:
      connection = socket.create_connection(address, timeout=left)
    except OSError:
      time.sleep(min(_RETRY, left))
      continue
    line = Line(connection)
    line.send(told)
    # Process 0 waits as long from when it began, perhaps just now: whoever
    # hangs up before it would be missing too.
    connection.settimeout(timeout + min(timeout, _GRACE))
    answer = next(line.received(), None)
    if answer == "":
      connection.settimeout(None)
      return line
    line.close()
    if answer:
      raise ValueError(answer)
    time.sleep(min(_RETRY, left))
  raise ValueError(
    f"coordinator={coordinator!r}: must be where process 0 answers; it "
    "did not in time"
  )
