"""How commands end: exit codes, one line for an error, output that is lost."""

import errno
import io
import signal
import sys
import warnings

import pytest

import quped_jax as qj
from quped_jax.command_line import endings
from quped_jax.experiment import output
from quped_jax.experiment.divergence_reports import DivergenceError


@pytest.fixture(autouse=True)
def _format(monkeypatch):
  monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)


def noted(error, note):
  error.add_note(note)
  return error


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (ValueError("a=1: must be 2"), 2, "error: a=1: must be 2"),
    (FileNotFoundError("no such file"), 2, "error: no such file"),
    (ImportError("no module"), 2, "error: no module"),
    (DivergenceError("diverged"), 1, "error: diverged"),
    (noted(OSError("full"), "saved"), 1, "error: full; saved"),
    (KeyboardInterrupt(), 130, "stopped by SIGINT: nothing new is saved"),
    (
      qj.Interrupted(signal.SIGTERM, "saved"),
      143,
      "stopped by SIGTERM: saved",
    ),
  ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys):
  def main():
    raise error

  with pytest.raises(SystemExit) as ended:
    endings.run(main)
  assert ended.value.code == code
  assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
  "error", [ValueError("a"), OSError("a"), DivergenceError("a")]
)
def test_with_a_traceback_the_error_is_raised(error):
  def main():
    raise error

  with pytest.raises(type(error)):
    endings.run(main, traceback=True)


def test_an_error_of_ours_has_its_traceback():
  def main():
    raise TypeError("a mistake of the library")

  with pytest.raises(TypeError):
    endings.run(main)


def test_other_processes_are_told(monkeypatch):
  told = []
  monkeypatch.setattr(
    "quped_jax.simulation.processes.leave", lambda *args: told.append(args)
  )

  def main():
    raise ValueError("a")

  with pytest.raises(SystemExit):
    endings.run(main)
  assert told == [(2, "a")]


def test_a_warning_is_one_line(capsys):
  def main():
    with warnings.catch_warnings():
      warnings.simplefilter("always")
      warnings.showwarning = _show  # What pytest records, it does not print.
      warnings.warn("careful", stacklevel=1)

  def _show(message, category, filename, lineno, file=None, line=None):
    text = warnings.formatwarning(message, category, filename, lineno)
    sys.stderr.write(text)

  endings.run(main)
  assert capsys.readouterr().err == "warning: careful\n"


class Full(io.StringIO):
  """A stream on a disk that is full, or whose reader has left."""

  def __init__(self, number):
    super().__init__()
    self._error = OSError(number, "no")

  def write(self, text):
    raise self._error

  def fileno(self):
    raise self._error


@pytest.mark.parametrize(
  ("number", "lost"), [(errno.ENOSPC, True), (errno.EPIPE, False)]
)
def test_lost_output_is_an_error_unless_its_reader_left(
  number, lost, monkeypatch
):
  full = Full(number)
  monkeypatch.setattr(sys, "stdout", output.Forgiving(lambda: full))
  print("text")
  if not lost:
    endings.check_output()
    return
  with pytest.raises(OSError, match="the standard output cannot be written"):
    endings.check_output()


def test_afterwards_the_streams_are_the_same():
  before = sys.stdout, sys.stderr
  with endings.forgiving_output():
    assert sys.stdout is not before[0]
  assert (sys.stdout, sys.stderr) == before
