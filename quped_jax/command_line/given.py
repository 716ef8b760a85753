"""What a command is given: a preset or a config file, with changes by name."""

import argparse
from typing import Any

from quped_jax import checks
from quped_jax.command_line import config_files
from quped_jax.experiment import presets


def add_arguments(parser: argparse.ArgumentParser, preset: str) -> None:
  """Adds the options that say what settings are taken from.

  Args:
    parser: of the command.
    preset: an example of a preset.
  """
  parser.add_argument(
    "--preset",
    metavar="NAME",
    help=f"settings that come with the package, such as {preset}; `quped list "
    "presets` lists them",
  )
  parser.add_argument(
    "--config",
    metavar="FILE",
    help="settings from a file: .json, .toml, or .py[:VARIANT] with a "
    "get_config()",
  )


def add_restart(parser: argparse.ArgumentParser) -> None:
  """Adds `--restart`, whose value is a bool."""
  parser.add_argument(
    "--restart",
    action="store_true",
    help="begin anew, even if the folder holds checkpoints, or results of "
    "another run, which are replaced",
  )


def read(args: argparse.Namespace) -> dict[str, Any]:
  """The values of the preset or the config file; {} if there is neither.

  Raises:
    ValueError: both, one that there is not, or a file that cannot be read.
  """
  if args.preset is not None and args.config is not None:
    raise ValueError(
      f"config={args.config!r}: must not be given beside preset={args.preset!r}"
    )
  if args.config is not None:
    return config_files.load(args.config)
  return {} if args.preset is None else presets.get(args.preset)


def source(args: argparse.Namespace) -> str:
  """What errors call the preset or the config file."""
  name = "config" if args.preset is None else "preset"
  return f"{name}={checks.shown(getattr(args, name))}"
