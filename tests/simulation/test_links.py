"""Processes that begin and end together; here they share one process."""

import concurrent.futures
import socket
import threading
import time

import pytest

from quped_jax.simulation import links as links_lib
from quped_jax.simulation.links import Line, Links


class Ends(list):
  """Exit codes; a process that ends closes its connections."""

  def __init__(self, lines):
    self.lines = lines
    self.come = threading.Event()

  def __call__(self, code):
    self.append(code)
    self.close()
    self.come.set()

  def close(self):
    for line in self.lines.values():
      line.close()


@pytest.fixture(params=["quick", "slow"])
def linked(monkeypatch, request):
  """Makes `count` processes, each with the exit codes that it ended with.

  One may be `mute`: it has connections, but says and does nothing. Where it is
  slow, process 0 goes on only after the last has answered what it was told.
  """
  send, slow = Line.send, []

  def send_and_wait(line, value):
    send(line, value)
    if line in slow:
      time.sleep(0.05)

  monkeypatch.setattr(Line, "send", send_and_wait)
  monkeypatch.setattr(links_lib, "_GRACE", 0.5)
  monkeypatch.setattr(links_lib, "_LAST", 5.0)
  monkeypatch.setattr(links_lib, "_REASON", 0.2)
  ends = []

  def make(count, mute=-1):
    lines = [{} for _ in range(count)]
    with socket.create_server(("localhost", 0)) as listener:
      for i in range(1, count):
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
        lines[0][i], lines[i][0] = Line(here), Line(there)
    if request.param == "slow":
      slow.append(lines[0][count - 1])
    ends.extend(map(Ends, lines))
    return [
      (None if i == mute else Links(i, lines[i], count, end), end)
      for i, end in enumerate(ends)
    ]

  yield make
  for end in ends:
    end.close()


def in_all(functions):
  """Calls functions at once; returns what each returned or raised."""
  with concurrent.futures.ThreadPoolExecutor(len(functions)) as pool:
    futures = [pool.submit(function) for function in functions]
    return [x.exception() or x.result() for x in futures]


def soon(condition):
  for _ in range(500):
    if condition():
      return True
    time.sleep(0.01)
  return False


@pytest.mark.skipif(
  not hasattr(socket, "TCP_USER_TIMEOUT"),
  reason="the system has no such option",
)
def test_a_machine_that_answers_nothing_is_lost_in_half_a_minute():
  """What is sent and not received would otherwise be repeated for minutes."""
  with socket.create_server(("localhost", 0)) as listener:
    there = socket.create_connection(listener.getsockname())
    line = Line(there)
    option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
    assert there.getsockopt(*option) == 30_000
    line.close()


def test_all_get_the_values_of_all(linked):
  processes = linked(3)
  for turn in range(2):
    told = in_all(
      [
        lambda x=x, i=i, turn=turn: x.exchange({"turn": turn, "process": i})
        for i, (x, _) in enumerate(processes)
      ]
    )
    assert told == 3 * [[{"turn": turn, "process": i} for i in range(3)]]


def test_a_signal_is_known_to_all(linked):
  processes = linked(3)
  processes[1][0].announce(2)
  assert soon(lambda: [x.signal for x, _ in processes] == [2, 2, 2])


@pytest.mark.parametrize("dead", [0, 1])
def test_one_that_is_killed_ends_the_wait_of_all_others(linked, dead):
  processes = linked(3, mute=dead)

  def wait(links):
    with links.together() as set_note:
      set_note(lambda: "round 3 is saved")
      links.exchange(1)

  alive = [x for i, (x, _) in enumerate(processes) if i != dead]
  threading.Timer(0.2, processes[dead][1].close).start()
  for error in in_all([lambda x=x: wait(x) for x in alive]):
    assert isinstance(error, ConnectionError)
    assert str(error).startswith(f"process {dead} has ended without a word")
    assert str(error).endswith("; round 3 is saved")


def test_one_that_is_stuck_when_another_is_killed_ends_with_a_line(
  linked, capsys
):
  (first, ends), (_, others) = linked(2)
  with pytest.raises(ConnectionError), first.together() as set_note:
    set_note(lambda: "round 3 is saved")
    others.close()
    assert ends.come.wait(5.0)
    raise ValueError("what the devices say")
  assert ends == [1]
  assert capsys.readouterr().err == (
    "error: process 1 has ended without a word: killed, or its machine lost; "
    "round 3 is saved\n"
  )


def test_an_error_in_one_is_told_to_all_others(linked):
  processes = linked(3)

  def fail(links):
    with links.together():
      raise ValueError("steps=0: must be at least 1\nand more")

  def wait(links):
    with links.together():
      links.exchange(1)

  (first, _), (second, _), (third, _) = processes
  errors = in_all(
    [lambda: wait(first), lambda: fail(second), lambda: wait(third)]
  )
  assert isinstance(errors[1], ValueError)
  for error in errors[0], errors[2]:
    assert isinstance(error, ConnectionError)
    assert str(error) == "process 1 has ended: steps=0: must be at least 1"


def test_an_error_that_another_caused_names_the_other(linked):
  (first, _), (second, _) = linked(2)
  ended = pytest.raises(ConnectionError, match="process 1 has ended: no disk")
  with ended, first.together():
    second.fail("no disk")
    raise RuntimeError("Gloo: connection closed by peer")


def test_the_first_process_is_the_last_to_end(linked):
  (first, ends), (second, others) = linked(2)
  second.fail("no disk")
  leaving = threading.Thread(target=first.leave, args=(1, "no disk"))
  leaving.start()
  assert not ends.come.wait(0.3)
  others.close()
  assert ends.come.wait(5.0) and ends == [1]
  leaving.join()


def test_a_mistake_that_all_made_is_the_error_of_each(linked):
  def fail(links):
    with links.together():
      raise ValueError("steps=0: must be at least 1")

  errors = in_all([lambda x=x: fail(x) for x, _ in linked(3)])
  assert [type(x) for x in errors] == 3 * [ValueError]


class StoppedError(Exception):
  pass


def test_what_ends_all_is_no_failure(linked):
  processes = linked(2)

  def stop(links):
    with links.together((StoppedError,)):
      raise StoppedError

  errors = in_all([lambda x=x: stop(x) for x, _ in processes])
  assert [type(x) for x in errors] == [StoppedError, StoppedError]
  for links, _ in processes:
    links.leave(1, "stopped")
  in_all([x.part for x, _ in processes])
  assert [ends for _, ends in processes] == [[], []]


def test_all_wait_for_the_slowest_at_the_end(linked):
  processes = linked(3)
  parted = []

  def end(i, links):
    with links.together():
      pass
    time.sleep(0.1 * i)
    before = len(parted)
    links.part()
    parted.append(i)
    return before

  ends = [lambda i=i, x=x: end(i, x) for i, (x, _) in enumerate(processes)]
  assert in_all(ends) == [0, 0, 0]
  assert [ends for _, ends in processes] == [[], [], []]


def test_one_that_ends_well_but_early_ends_all(linked, capsys):
  """It has done one run, where the other is told to do two."""
  (first, ends), (second, others) = linked(2)
  with first.together(), second.together():
    pass
  parting = threading.Thread(target=second.part)
  ended = pytest.raises(ConnectionError, match="process 1 has ended before the")
  with ended, first.together():
    parting.start()
    first.exchange(1)
  first_end = threading.Thread(target=first.leave, args=(1, ""))
  first_end.start()
  parting.join()
  first_end.join()
  assert ends == [1] and others == [1]
  assert "process 0 has ended" in capsys.readouterr().err


def test_a_mistake_that_all_make_ends_the_run_and_nobody(linked):
  """In a loop over settings, say, the next run begins as if nothing was."""
  processes = linked(3)

  def play(links):
    for text in ("rounds=0: must be positive", ""):
      try:
        with links.together():
          with links.agreeing():
            if text:
              raise ValueError(text)
          told = links.exchange("done")
      except ValueError as error:
        assert str(error) == text
    return told

  told = in_all([lambda x=x: play(x) for x, _ in processes])
  assert told == 3 * [["done"] * 3]


def test_a_mistake_of_one_alone_ends_all(linked):
  processes = linked(3)

  def play(links, mistaken):
    with links.together(), links.agreeing():
      if mistaken:
        raise ValueError("no such file")

  one, *others = in_all(
    [lambda x=x, i=i: play(x, i == 0) for i, (x, _) in enumerate(processes)]
  )
  assert isinstance(one, ValueError)
  for other in others:
    assert isinstance(other, ConnectionError)
    assert str(other).startswith("process 0 has ended: no such file")
