"""Output that cannot be shown is lost, and ends nothing."""

import errno
import io
import sys
import threading

import pytest
import rich.console

import quped_jax as qj
from quped_jax.experiment import output
from tests.experiment.callbacks import told


class Failing(io.StringIO):
  """A stream that takes so many writes and then raises.

  Like a file behind a buffer, it fails again at each further attempt.
  """

  def __init__(self, number=errno.ENOSPC, good=0):
    super().__init__()
    self._number, self._good = number, good
    self.attempts = 0

  def write(self, text):
    self.attempts += 1
    if self.attempts > self._good:
      raise OSError(self._number, "no")
    return super().write(text)


def test_after_a_failure_a_stream_is_left_alone():
  stream = Failing(good=1)
  forgiving = output.Forgiving(lambda: stream)
  for text in ("a", "b", "c"):
    assert forgiving.write(text) == 1
  forgiving.writelines(["d", "e"])
  forgiving.flush()
  assert stream.getvalue() == "a" and stream.attempts == 2
  assert isinstance(forgiving.lost(), OSError)


def test_what_a_reader_left_is_not_lost():
  stream = Failing(errno.EPIPE)
  forgiving = output.Forgiving(lambda: stream)
  forgiving.write("a")
  assert forgiving.error and forgiving.lost() is None


def test_a_closed_stream_or_none_takes_nothing():
  stream = io.StringIO()
  stream.close()
  for closed in (stream, None):
    forgiving = output.Forgiving(lambda closed=closed: closed)
    assert forgiving.write("a") == 1
    forgiving.flush()


def test_another_stream_is_written_to_again():
  streams = [Failing(), io.StringIO()]
  forgiving = output.Forgiving(lambda: streams[0])
  forgiving.write("a")
  streams.reverse()
  forgiving.write("b")
  assert streams[0].getvalue() == "b"
  assert not forgiving.isatty()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_console_goes_quiet(number, monkeypatch):
  for console in (
    rich.console.Console(file=Failing(number)),
    output.forgive(),
  ):
    # By default rich ends the process when a pipe breaks.
    with monkeypatch.context() as patch:
      patch.setattr(sys, "stdout", Failing(number))
      output.forgive(console).print("text")
      output.say("text")


def test_a_console_follows_the_standard_output(monkeypatch, capsys):
  console = output.forgive()
  console.print("one")
  with monkeypatch.context() as patch:
    patch.setattr(sys, "stdout", io.StringIO())
    console.print("other")
    assert sys.stdout.getvalue() == "other\n"  # pyright: ignore
  assert capsys.readouterr().out == "one\n"
  assert output.forgive(console).file is console.file


def test_a_live_display_outlives_its_terminal(monkeypatch):
  died = []
  monkeypatch.setattr(threading, "excepthook", died.append)
  file = Failing(errno.EIO, good=2)
  console = rich.console.Console(file=file, force_terminal=True, width=100)
  before = sys.stdout
  display = qj.Display(console)
  display.on_begin(told.start(rounds=4))
  display.on_evaluation(told.evaluation(2))
  assert sys.stdout is not before
  print("in the run")
  console.print("more")
  display.on_rounds(4, 4)
  display.on_end(told.end())
  display.on_note("text")
  assert sys.stdout is before and not died
  assert file.attempts == 3
