"""`quped list`: methods, models, datasets and presets, a line each."""

import argparse

from quped_jax import checks
from quped_jax.command_line import catalogue

SUMMARY = "list methods, models, datasets and presets, a line each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.add_argument(
    "what",
    nargs="?",
    metavar="WHAT",
    help=f"{', '.join(catalogue.KINDS)}; by default all of them",
  )


def run(args: argparse.Namespace) -> None:
  """Prints what there is."""
  if args.what is None:
    for name in catalogue.KINDS:
      print(f"{name}:")
      _print(name, "  ")
    return
  checks.choice("what", args.what, tuple(catalogue.KINDS))
  _print(args.what, "")


def _print(kind: str, indent: str) -> None:
  found = catalogue.KINDS[kind]()
  width = max(map(len, found))
  for name, line in found.items():
    print(f"{indent}{name:{width}}  {line}")
