"""Help on settings: the groups in a line each, or all of one group."""

import argparse
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from quped_jax import checks, methods
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.settings.fields import Worded
from quped_jax.methods import option_docs

_WIDTH = 80
# What the values are of rules that do not say so themselves.
_WORDS = {
  checks.positive: "above 0",
  checks.not_negative: "0 or more",
  checks.unit_interval: "from 0 to 1",
}
# Settings whose values `quped list` lists.
_LISTED = {
  "dataset": "datasets",
  "public_dataset": "datasets",
  "model": "models",
  "shared_model": "models",
  "method": "methods",
}


class Help(argparse.Action):
  """`--help`, or `--help=GROUP`, which shows a group of settings."""

  def __call__(self, parser, namespace, values, option_string=None) -> None:
    """Prints it, and ends the program."""
    if values is None:
      parser.epilog = overview(parser.prog)
      parser.print_help()
    else:
      print(of_group(str(values)), end="")
    parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds `--help[=GROUP]` to a parser that has no help of its own."""
  parser.add_argument(
    "-h",
    "--help",
    action=Help,
    nargs="?",
    metavar="GROUP",
    help="show this, or a group of settings, or a method's options",
  )
  parser.usage = f"{parser.prog} [OPTIONS] [--SETTING=VALUE ...]"
  # All words that are no options of the command.
  parser.set_defaults(settings=())


def groups() -> dict[str, type]:
  """The groups of settings, by name, in the order of their fields."""
  return {
    cls.__name__.removesuffix("Settings").lower(): cls
    for cls in reversed(Settings.__bases__)
  }


def overview(prog: str) -> str:
  """All groups of settings, in a line each."""
  found = groups()
  width = max(map(len, found))
  lines = [
    textwrap.fill(
      f"{name:{width}}  {_first_line(cls)}",
      _WIDTH,
      initial_indent="  ",
      subsequent_indent=(width + 4) * " ",
    )
    for name, cls in found.items()
  ]
  return "\n".join(
    [
      f"settings, as --NAME=VALUE; `{prog} --help=GROUP` shows those of a "
      "group:",
      *lines,
      "",
      f"options of a method, as --METHOD.OPTION=VALUE: `{prog} --help=METHOD`",
      "shows them, `quped list methods` lists the methods",
    ]
  )


def of_group(name: str) -> str:
  """The settings of a group, or the options of a method.

  Args:
    name: of the group or the method.

  Raises:
    ValueError: there is no such group or method.
  """
  found = groups()
  known = (*found, *sorted(methods.METHODS))
  if name not in known:
    raise ValueError(
      f"help={name!r}: must be one of {', '.join(found)}, or the name of a "
      f"method{checks.did_you_mean(name, known)}"
    )
  if name in found:
    about, prefix, fields = found[name], "", dataclasses.fields(found[name])
    docs = {field.name: field.metadata["doc"] for field in fields}
  else:
    entry = methods.METHODS[name]
    about, prefix = inspect.getmodule(entry.make), f"{name}."
    fields = dataclasses.fields(entry.options)
    docs = option_docs.meanings(entry.options)
  lines = textwrap.wrap(f"{name}: {_first_line(about)}", _WIDTH)
  for field in fields:
    if field.name != "method_options":  # They are options of methods.
      lines += ["", *_entry(prefix, field, docs.get(field.name, ""))]
  return "\n".join(lines) + "\n"


def _entry(prefix: str, field: dataclasses.Field, doc: str) -> Iterator[str]:
  """A setting: its name and default, what it means, what is allowed."""
  yield f"  --{prefix}{field.name}={_written(field.default)}"
  for text in (doc.replace("`", ""), _allowed(field)):
    yield from textwrap.wrap(
      text,
      _WIDTH,
      initial_indent=6 * " ",
      subsequent_indent=6 * " ",
      break_long_words=False,
      break_on_hyphens=False,
    )


def _written(value: Any) -> str:
  """A value as the command line takes it."""
  if isinstance(value, tuple):
    return ",".join(map(str, value)) or "'()'"
  return str(value) or "''"


def _allowed(field: dataclasses.Field) -> str:
  """What its values are, where its rules say so."""
  if field.name in _LISTED:
    return f"allowed: those of `quped list {_LISTED[field.name]}`"
  if "bool" in str(field.type):
    return "allowed: True or False"
  rules = field.metadata.get("rules", ())
  words = [
    rule.words if isinstance(rule, Worded) else _WORDS.get(rule, "")
    for rule in rules
  ]
  said = "; ".join(x for x in words if x)
  return f"allowed: {said}" if said else ""


def _first_line(thing: Any) -> str:
  return (inspect.getdoc(thing) or "").partition("\n")[0]
