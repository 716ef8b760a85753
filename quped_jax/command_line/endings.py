"""How a command ends: errors of one line, exit codes, output that is lost."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import quped_jax as qj
from quped_jax.experiment import output

# Where processes are told of each other.
_PROCESSES = "quped_jax.simulation.processes"


def run(main: Callable[[], None], *, traceback: bool = False) -> None:
  """Runs a command; a user's mistake becomes one line and exit code 2.

  A run that cannot go on, say on a full disk, ends with exit code 1; one that a
  signal ends, with 128 and the signal's number. Of several processes, one that
  ends tells the others.

  If only the standard output cannot be written, there is a warning, and the
  exit code is that of the run.

  Args:
    main: raises ValueError, FileNotFoundError or ImportError for mistakes of
      the user.
    traceback: whether errors have a traceback, instead of one line.
  """
  if not traceback:
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
  try:
    main()
  except SystemExit:  # As of `--help`, before what the errors below are.
    raise
  except (ValueError, FileNotFoundError, ImportError) as error:
    if traceback:
      raise
    _end(2, error)
  except KeyboardInterrupt as error:
    # A run says by which signal, and what is saved.
    stopped = str(error) or "stopped by SIGINT: nothing new is saved"
    _end(128 + getattr(error, "signal", signal.SIGINT), stopped, kind="")
  except (OSError, qj.DivergenceError) as error:
    if traceback:
      raise
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    _end(1, f"{error}{notes}")
  try:
    check_output()
  except OSError as error:
    print(f"warning: {error}: some of it is lost", file=sys.stderr)


def _end(code: int, reason: object, kind: str = "error: ") -> NoReturn:
  print(f"{kind}{reason}", file=sys.stderr)
  # Who never asked for other processes has nobody to tell.
  if _PROCESSES in sys.modules:
    sys.modules[_PROCESSES].leave(code, str(reason))
  sys.exit(code)


@contextlib.contextmanager
def forgiving_output() -> Iterator[None]:
  """What the standard output and error cannot take is lost, and no error."""
  null = os.open(os.devnull, os.O_RDWR)
  # Numbers that were closed would be given to files that the command opens.
  while null < 3:
    null = os.dup(null)
  before = sys.stdout, sys.stderr
  forgiving: Any = [output.Forgiving(lambda x=x: x) for x in before]
  sys.stdout, sys.stderr = forgiving
  try:
    yield
  finally:
    for stream in forgiving:
      stream.flush()
      if isinstance(stream.error, OSError):
        # What waits in a buffer would be an error when Python ends.
        os.dup2(null, stream.fileno())
    sys.stdout, sys.stderr = before


def check_output() -> None:
  """Raises an OSError if the standard output could not take all of it.

  It does not if the reader of a pipe has left: it has what it wanted.
  """
  sys.stdout.flush()
  if reason := getattr(sys.stdout, "lost", lambda: None)():
    raise OSError(f"the standard output cannot be written ({reason})")
