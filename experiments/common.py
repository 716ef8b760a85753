"""What the commands share: configs made of settings, and errors for users."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import ml_collections
import rich.console
from absl import app, flags, logging

import quped_jax as qj
from experiments import command_line
from quped_jax.experiment import output, scores
from quped_jax.quantization import codebook
from quped_jax.simulation import processes

# In characters, for tables that are not printed on a terminal.
_WIDTH = 160


def get_config(**overrides: Any) -> ml_collections.ConfigDict:
  """A config of all settings, with defaults for those not given.

  Args:
    **overrides: settings; a method's name takes a dict of its options.

  Returns:
    A config with the fields of `quped_jax.Settings`, and a sub-config of
    options for each method.
  """
  settings = qj.Settings.from_dict(overrides)
  return ml_collections.ConfigDict(settings.to_dict())


def get_settings(config: ml_collections.ConfigDict) -> qj.Settings:
  """The settings that a config holds, checked."""
  return qj.Settings.from_dict(config.to_dict())


def run_app(main: Callable[[list[str]], None]) -> None:
  """Runs `main` by `app.run`; a mistake in a flag is an error of one line.

  Makes every CPU core a device. Output that cannot be shown ends nothing.

  Args:
    main: takes the arguments that are not flags.
  """

  qj.use_cores()
  with _forgiving_output():
    app.run(main, flags_parser=command_line.parse)


@contextlib.contextmanager
def _forgiving_output() -> Iterator[None]:
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


def run_main(main: Callable[[], None]) -> None:
  """Runs a command; a user's mistake becomes one line and exit code 2.

  A run that cannot go on, say on a full disk, ends with exit code 1. With
  `--verbosity=1` there is a traceback instead. Of several processes, one that
  ends tells the others. Compiled programs are kept for later runs.

  If only the standard output cannot be written, there is a warning, and the
  exit code is that of the run.

  Args:
    main: raises ValueError, FileNotFoundError or ImportError for mistakes of
      the user.
  """
  if not logging.level_debug():
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
  if not flags.FLAGS["verbosity"].present:
    # tensorflow-datasets logs every step that it takes.
    logging.set_verbosity(logging.WARNING)
  qj.use_compilation_cache()
  try:
    main()
  except (ValueError, FileNotFoundError, ImportError) as error:
    if logging.level_debug():
      raise
    _end(2, error)
  except qj.Interrupted as error:
    _end(128 + error.signal, error, kind="")
  except KeyboardInterrupt as error:
    stopped = str(error) or "stopped by SIGINT: nothing new is saved"
    _end(128 + signal.SIGINT, stopped, kind="")
  except (qj.DivergenceError, OSError) as error:
    if logging.level_debug():
      raise
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    _end(1, f"{error}{notes}")
  try:
    check_output()
  except OSError as error:
    print(f"warning: {error}: some of it is lost", file=sys.stderr)


def _end(code: int, reason: object, kind: str = "error: ") -> NoReturn:
  print(f"{kind}{reason}", file=sys.stderr)
  processes.leave(code, str(reason))
  sys.exit(code)


def make_console() -> rich.console.Console:
  """A console that is wide enough for tables."""
  console = output.forgive()
  if not console.is_terminal:
    console.width = _WIDTH
  return console


def print_summary(summary: dict[str, Any]) -> None:
  """Prints the score after the last round, variant by variant."""
  score = scores.of_summary(summary)
  print(
    f"{summary['method']} on {summary['dataset']}, {summary['model']}, "
    f"{codebook.describe_bits(summary['bits'])}, {summary['clients']} clients, "
    f"round {summary['rounds']}:"
  )
  for name, spread in summary[score.name].items():
    print(
      f"  {name:12s} {score.text(spread['mean']):>7s}  "
      f"(worst client {score.text(spread['worst'])}, "
      f"10th percentile {score.text(spread['p10'])})"
    )
  if summary["privacy"]:
    print(
      f"private: epsilon {summary['privacy']['epsilon']:.3g} at delta "
      f"{summary['privacy']['delta']:g}, by client"
    )
  if len(summary["client_types"]) < 2:
    return
  variant = summary["primary_variant"]
  print(f"by client type, {variant}:")
  for name, client_type in summary["client_types"].items():
    spread = client_type[score.name][variant]
    if spread:
      print(
        f"  {name:20s} {client_type['clients']:5d} clients  "
        f"{client_type['model_bytes'] / 1000:8.1f} KB  "
        f"{score.text(spread['mean']):>7s}"
      )
