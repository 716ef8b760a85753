"""The command line: flags and config files; a mistake in them is one line."""

import contextlib
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from quped_jax import paths
from quped_jax.command_line import config_files
from quped_jax.experiment import former_names

# Of the config library's message, with a traceback behind it.
_IN_CONFIG = "Error whilst parsing config file:"
# Of absl's message where a flag was not given.
_NOT_GIVEN = "must have a value other than None"
# What the parsers of flags say, and what they mean.
_MEANT = {
  ": ('Non-boolean argument to boolean flag'": "True or False",
  ": Non-boolean argument to boolean flag": "True or False",
  ": invalid literal for int()": "a whole number",
  ": could not convert string to float": "a number",
}


def _end(reason: str) -> NoReturn:
  print(f"error: {reason}", file=sys.stderr)
  sys.exit(2)


def config_paths(argv: Sequence[str]) -> list[str]:
  """The config files that arguments name, without their variants."""
  values = [x.partition("=")[2] for x in argv if x.startswith("--config=")]
  values += [
    value
    for flag, value in zip(argv, argv[1:], strict=False)
    if flag == "--config" and not value.startswith("-")
  ]
  return [value.rsplit(":", 1)[0] for value in values]


def _check_config_file(argv: Sequence[str]) -> None:
  """For a config file that does not exist, prints one line with those there."""
  for value in config_paths(argv):
    try:
      path = paths.given("config", value)
    except ValueError as error:
      _end(str(error))
    if not path.is_file():
      there = _configs(path.parent) or _configs(pathlib.Path("configs"))
      _end(f"--config={value!r}: must be a file; there are {there or 'none'}")


def _configs(folder: pathlib.Path) -> str:
  return ", ".join(sorted(map(str, folder.glob("[!_]*.py"))))


def _check_field_names(argv: Sequence[str]) -> None:
  """For a setting's former name, prints one line with its present name."""
  for field in (x.partition("=")[0] for x in argv if x.startswith("--config.")):
    name = field.rpartition(".")[2]
    if name in former_names.SETTINGS:
      _end(f"{field}: is called {former_names.SETTINGS[name]} now")


@contextlib.contextmanager
def one_line(config: str) -> Iterator[None]:
  """Prints one line for whatever a user's flags or config file raise.

  Args:
    config: path of the config file.
  """
  try:
    yield
  except flags.Error as error:
    _end(_flag_error(str(error)))
  except Exception as error:  # Whatever the config file's own code raises.
    line = config_files.line_of(error, config)
    if line is not None:
      what = traceback.format_exception_only(error)[-1].strip()
      _end(f"--config={config}: fails at line {line}: {what}")
    if "has no attribute 'get_config'" in str(error):
      _end(f"--config={config}: must define get_config()")
    if isinstance(error, (AttributeError, KeyError)):
      _end(_field_error(error))
    if str(error).startswith("Could not parse"):
      # A name that is no name in Python.
      _end(f"--config has no such field: {str(error).split(chr(39))[1]}")
    raise


def _field_error(error: Exception) -> str:
  (said,) = error.args
  if isinstance(said, Exception):  # As the config library wraps it.
    (said,) = said.args
  name, *_ = str(said).splitlines()
  near = re.search('Did you mean "([^"]*)"', str(said))
  return (
    f"--config has no such field: {name.strip(chr(39))}. "
    + (f"Did you mean {near[1]}? " if near else "")
    + "Settings are those of quped_jax.Settings; options are METHOD.OPTION, "
    "such as --config.quped.lambda_p=0.3"
  )


def _flag_error(reason: str) -> str:
  """What absl says of a flag, in one line."""
  flag, in_config, trace = reason.partition(_IN_CONFIG)
  if in_config:
    where = ""
    path = re.search("--config=([^:]*)", flag)
    if path is not None:
      file = re.escape(path[1])
      lines = re.findall(rf'File "[^"]*{file}", line (\d+)', trace)
      where = "".join(f" at line {line}" for line in lines[-1:])
    flag = flag.strip().removeprefix("flag ").rstrip(": ")
    return f"{flag}: fails{where}: {trace.strip().splitlines()[-1].strip()}"
  reason = " ".join(reason.split()).removeprefix("flag ")
  for said, meant in _MEANT.items():
    flag, found, _ = reason.partition(said)
    if found:
      return f"{flag.rstrip(' (')}: must be {meant}"
  if reason.endswith(f"{_NOT_GIVEN}."):
    return reason.partition("=")[0] + ": must be given"
  return f"{reason}; --help lists the flags"


def last_of_each(argv: Sequence[str]) -> list[str]:
  """The arguments, with only the last value of each config field.

  For a field that is a list, the config library would join all values given.

  Args:
    argv: arguments; those of fields are `--config.NAME=VALUE`.
  """
  last = {}
  for i, arg in enumerate(argv):
    name = arg.partition("=")[0] if arg.startswith("--config.") else ""
    key = name if name and "=" in arg else i
    last.pop(key, None)
    last[key] = arg
  return list(last.values())


def with_homes(argv: Sequence[str]) -> list[str]:
  """The arguments, with `~` expanded in the path of a config file."""
  return [
    f"--config={paths.given('config', arg.partition('=')[2])}"
    if arg.startswith("--config=~")
    else arg
    for arg in argv
  ]


def parse(argv: Sequence[str]) -> list[str]:
  """Parses all flags, as `app.run` wants it; a mistake ends the program.

  Args:
    argv: the program's name and its arguments.

  Returns:
    Those that are not flags, after the program's name.
  """
  args = with_homes(last_of_each(argv))
  config = (config_paths(args) or [""])[-1]
  with one_line(config):
    rest = flags.FLAGS(args)
  if len(rest) > 1:
    _end(
      f"{' '.join(rest[1:])}: must be a flag, as all arguments; values of a "
      "list have no spaces between them"
    )
  if "config" in flags.FLAGS:
    value = flags.FLAGS["config"].value
    if not isinstance(value, ml_collections.ConfigDict):
      _end(
        f"--config={config}: get_config() must return a ConfigDict, such as "
        f"that of experiments.common; it returns a {type(value).__name__}"
      )
  return rest


def define_config(default: str) -> flags.FlagHolder:
  """Defines the flag `--config`.

  Args:
    default: path of a config file, perhaps with `:VARIANT`.

  Returns:
    The flag, whose value is the config.
  """
  _check_config_file(sys.argv)
  _check_field_names(sys.argv)
  # Without --config, the library reads the fields on the command line here;
  # with it, when flags are parsed.
  with one_line((config_paths(sys.argv) or [default.rsplit(":", 1)[0]])[-1]):
    return config_flags.DEFINE_config_file(
      "config",
      default,
      "Settings of the run, see quped_jax.Settings.",
      lock_config=True,
    )


def define_restart() -> flags.FlagHolder:
  """Defines the flag `--restart`, whose value is a bool."""
  return flags.DEFINE_bool(
    "restart",
    False,
    "Begin anew, even if the folder holds checkpoints, or results of another "
    "run, which are replaced.",
  )
