"""What ties the processes of a run together: none outlives another for long.

Each process has a connection to process 0 for as long as it lives, and process
0 passes on what concerns all. So the end of a process is noticed, whatever
ended it: the system closes its connections. Values for all are exchanged here
too, on the host: nothing is compiled, and nothing waits for devices.
"""

import collections
import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Seconds in which a process that was told of another's end may end by itself.
# One that waits for the other's devices never does.
_GRACE = 10.0
# Seconds for which process 0, which JAX's own service ends with, is the last.
_LAST = 20.0
# Seconds in which the reason for a failed sum over devices becomes known.
_REASON = 1.0
# A machine that is silent for 15 + 3 * 5 seconds is lost, or for as many
# milliseconds if something was sent to it.
_KEEPALIVE = {
  "TCP_KEEPIDLE": 15,
  "TCP_KEEPINTVL": 5,
  "TCP_KEEPCNT": 3,
  "TCP_USER_TIMEOUT": 30_000,
}


class Line:
  """JSON values over a connection, one to a line of text."""

  def __init__(self, connection: socket.socket):
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
      if hasattr(socket, name):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    self._connection, self._file = connection, connection.makefile()
    # A signal's handler may interrupt its own thread.
    self._lock = threading.RLock()

  def send(self, value: Any) -> None:
    """Sends a value, unless the other side has ended."""
    with self._lock, contextlib.suppress(OSError):
      self._connection.sendall(json.dumps(value).encode() + b"\n")

  def received(self) -> Iterator[Any]:
    """The values that come, until the other side ends."""
    with contextlib.suppress(OSError, ValueError):
      for text in self._file:
        yield json.loads(text)

  def close(self) -> None:
    """Closes the connection; what waits for values of it has come to an end."""
    with contextlib.suppress(OSError):
      self._connection.shutdown(socket.SHUT_RDWR)
    self._file.close()
    self._connection.close()


class Links:
  """The connections of one process, and what it knows of the others.

  Args:
    process_id: which process this is.
    lines: {process: its line}; of process 0 to all, of the others to process 0.
    count: how many processes there are.
    end: ends this process at once, with an exit code.

  Attributes:
    process_id: likewise.
  """

  def __init__(
    self,
    process_id: int,
    lines: dict[int, Line],
    count: int,
    end: Callable[[int], Any] = os._exit,
  ):
    self.signal = 0
    self.process_id, self._lines, self._end = process_id, lines, end
    self._others = set(range(count)) - {process_id}
    self._changed = threading.Condition()
    self._values = {i: collections.deque() for i in lines}
    self._closed: set[int] = set()
    # Of those that have left: how many runs they had ended.
    self._left: dict[int, int] = {}
    self._runs = 0
    self._inside = self._agreed = self._mistaken = self._failed = False
    self._lost = ""
    # All have heard, or will without this process, that one has ended.
    self._all_know = False
    self._note: Callable[[], str] = str
    for i in lines:
      threading.Thread(target=self._listen, args=(i,), daemon=True).start()

  def exchange(self, value: Any) -> list[Any]:
    """The values of all processes, which all call this; waits for them.

    Raises:
      ConnectionError: a process has ended.
    """
    if self.process_id:
      self._tell("value", value)
      return self._next(0)
    values = [value, *(self._next(i) for i in sorted(self._lines))]
    self._tell("value", values)
    return values

  def announce(self, number: int) -> None:
    """Tells all of a signal that is to end the run."""
    self.signal = number
    self._tell("signal", number)

  @contextlib.contextmanager
  def together(
    self, agreed: tuple[type[BaseException], ...] = ()
  ) -> Iterator[Callable[[Callable[[], str]], None]]:
    """A run, of all processes: if one fails in it or ends, all end.

    Those that do not within seconds, since they wait for its devices, end with
    a line on stderr and exit code 1.

    Args:
      agreed: exceptions that all processes raise together.

    Yields:
      Takes a function that says what is saved, for that line.

    Raises:
      ConnectionError: another process has ended.
    """
    with self._changed:
      self._inside, self._note = True, str
      self._agreed = self._mistaken = False
      self._look_for_early_leavers()
    try:
      self._check()
      yield self._set_note
    except BaseException as error:
      if self._agreed or isinstance(error, agreed):
        self._runs += 1
        self._agreed = True
        raise
      if self._mistaken:
        raise  # The others know.
      if isinstance(error, Exception):
        self._wait(lambda: bool(self._lost), _REASON)
      lost = self._lost
      self.fail(error)
      # All may have made the same mistake.
      if lost and not lost.endswith(f": {_in_a_line(error)}"):
        raise ConnectionError(self._with_note(lost)) from error
      raise
    else:
      self._runs += 1
    finally:
      with self._changed:
        self._inside = False
        self._changed.notify_all()

  @contextlib.contextmanager
  def agreeing(self) -> Iterator[None]:
    """What all do before a run's first round, perhaps with one mistake of all.

    If all raise the same error, it ends the run and nobody's process.

    Raises:
      ConnectionError: another process has made a mistake.
    """
    try:
      yield
    except Exception as error:
      text = _in_a_line(error)
      with contextlib.suppress(ConnectionError):
        self._agreed = all(told == text for told in self.exchange(text))
      if not self._agreed:
        self._mistaken = True
        self.fail(error)
      raise
    for i, text in enumerate(self.exchange("")):
      if text:
        with self._changed:
          self._lose(_ended(i, text))
        self._check()

  def fail(self, reason: BaseException | str) -> None:
    """Tells the others, once, that this process ends, and why."""
    if not self._failed:
      self._failed = True
      if not self._all_know:
        self._tell("end", _ended(self.process_id, _in_a_line(reason)))

  def leave(self, code: int, reason: str) -> None:
    """Ends this process, without JAX's wait for the others.

    Does nothing if what ended the last run ended it for all.

    Args:
      code: the exit code.
      reason: for the others, if they were not told yet.
    """
    if self._agreed and not self._lost:
      return
    self.fail(reason)
    if not self.process_id:
      self._wait(lambda: self._closed >= self._others, _LAST)
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.flush()
    self._end(code)

  def part(self) -> None:
    """At this process's end: waits for the others, unless one has failed."""
    if not self._failed and not self._lost:
      self._tell("left", [self.process_id, self._runs])
      self._wait(lambda: self._left.keys() >= self._others or bool(self._lost))
    if self._lost and not self._failed:
      self._print_lost()
    if self._lost or self._failed:
      self.leave(1, self._lost)

  def _set_note(self, note: Callable[[], str]) -> None:
    self._note = note

  def _with_note(self, text: str) -> str:
    note = self._note()
    return f"{text}; {note}" if note else text

  def _print_lost(self) -> None:
    with contextlib.suppress(OSError):
      print(f"error: {self._with_note(self._lost)}", file=sys.stderr)

  def _tell(self, kind: str, content: Any, but: int = -1) -> None:
    for i, line in self._lines.items():
      if i != but:
        line.send([kind, content])

  def _next(self, i: int) -> Any:
    self._wait(lambda: self._values[i] or self._lost)
    if not self._values[i]:
      self._check()
    return self._values[i].popleft()

  def _wait(self, until: Callable[[], Any], seconds: float | None = None):
    with self._changed:
      return self._changed.wait_for(until, seconds)

  def _check(self) -> None:
    if self._lost:
      raise ConnectionError(self._lost)

  def _listen(self, i: int) -> None:
    """Hears what a process says, until it ends."""
    for kind, content in self._lines[i].received():
      if self.process_id == 0 and kind != "value":
        self._tell(kind, content, but=i)
      with self._changed:
        self._hear(i, kind, content)
        self._changed.notify_all()
    self._lines[i].close()
    text = f"process {i} has ended without a word: killed, or its machine lost"
    with self._changed:
      self._closed.add(i)
      expected = i in self._left or self._failed or self._lost
      self._changed.notify_all()
    if not expected:
      self._tell("end", text, but=i)
      with self._changed:
        self._lose(text)

  def _hear(self, i: int, kind: str, content: Any) -> None:
    if kind == "value":
      self._values[i].append(content)
    elif kind == "signal":
      self.signal = content
    elif kind == "left":
      self._left[content[0]] = content[1]
      self._look_for_early_leavers()
    elif kind == "end":
      self._lose(content)

  def _look_for_early_leavers(self) -> None:
    early = [i for i, runs in self._left.items() if runs <= self._runs]
    if self._inside and early:
      text = f"process {early[0]} has ended before the run was over"
      self._lose(text, all_know=False)

  def _lose(self, text: str, all_know: bool = True) -> None:
    if not self._lost:
      self._lost, self._all_know = text, all_know
      self._changed.notify_all()
      threading.Thread(target=self._guard, daemon=True).start()

  def _guard(self) -> None:
    """Ends the process if the run does not end by itself."""
    if not self._wait(lambda: not self._inside, _GRACE):
      self._print_lost()
      self.leave(1, self._lost)


def _ended(process_id: int, reason: str) -> str:
  return f"process {process_id} has ended: {reason}"


def _in_a_line(reason: BaseException | str) -> str:
  return (str(reason).splitlines() or [type(reason).__name__])[0]
