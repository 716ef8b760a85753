"""Settings of runs: which differ, what all of them are, what they mean."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quped_jax import methods
from quped_jax.experiment import metrics
from quped_jax.experiment.report import tables
from quped_jax.experiment.report.markup import Markup, element, join
from quped_jax.experiment.settings import Settings
from quped_jax.methods import option_docs

# What settings of another run are where it has none of that name.
_ABSENT = "\N{EN DASH}"


class Said(NamedTuple):
  """What a run's `config.json` says of a setting.

  Attributes:
    name: of the setting; of a method's option "METHOD.OPTION".
    value: a JSON value.
    default: likewise; None if there is no such setting here.
    meaning: what it means; "" if it is not known.
  """

  name: str
  value: Any
  default: Any
  meaning: str

  @property
  def differs(self) -> bool:
    """Whether the value is not the default."""
    return self.value != self.default


@functools.cache
def _defaults() -> dict[str, Any]:
  """All settings at their defaults, as a file has them."""
  return json.loads(json.dumps(metrics.plain(Settings().to_dict())))


@functools.cache
def _meanings() -> dict[str, str]:
  return {x.name: x.metadata["doc"] for x in dataclasses.fields(Settings)}


def said(settings: Mapping[str, Any]) -> list[Said]:
  """The settings of a run, then the options of its method.

  Options of other methods, which the file has too, change nothing.

  Args:
    settings: the content of `config.json`.
  """
  defaults, meanings = _defaults(), _meanings()
  method = str(settings.get("method"))
  found = [
    Said(name, value, defaults.get(name), meanings.get(name, ""))
    for name, value in settings.items()
    if not (isinstance(value, dict) and (name in defaults or name == method))
    and name not in methods.METHODS
  ]
  options = settings.get(method)
  own = defaults.get(method, {})
  known = methods.METHODS.get(method)
  meanings = option_docs.meanings(known.options) if known else {}
  for name, value in options.items() if isinstance(options, dict) else ():
    meaning = meanings.get(name, "")
    found.append(Said(f"{method}.{name}", value, own.get(name), meaning))
  return found


def written(value: Any) -> str:
  """A value of a setting as the command line takes it."""
  if isinstance(value, list):
    return ",".join(map(written, value)) or "()"
  # As files have infinity, which is the only number that JSON lacks here.
  return "inf" if value is None else str(value)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  """The settings in which runs differ.

  An option of a method that only some of the runs have is one of them if it is
  not at its default.

  Args:
    settings: the content of `config.json` of each run.

  Returns:
    Rows: the name of a setting, and its value in each run.
  """
  by_run = [{x.name: x for x in said(own)} for own in settings]
  rows = []
  for name in dict.fromkeys(name for own in by_run for name in own):
    found = [own[name] for own in by_run if name in own]
    same = all(x.value == found[0].value for x in found)
    if same and (len(found) == len(by_run) or not found[0].differs):
      continue
    values = [
      written(own[name].value) if name in own else _ABSENT for own in by_run
    ]
    rows.append([name, *values])
  return rows


def section(settings: Mapping[str, Any]) -> Markup:
  """The settings that are not defaults, and all of them in a fold."""
  found = said(settings)
  changed = [x for x in found if x.differs]
  rows = [
    [_name(x), written(x.value), written(x.default), _meaning(x)]
    for x in changed
  ]
  titles = "setting", "value", "default", "meaning"
  first = (
    tables.table(
      "Settings that differ from the defaults", titles, rows, names=4
    )
    if rows
    else element("p", "All settings have their defaults.")
  )
  rows = [[_name(x), written(x.value), _meaning(x)] for x in found]
  whole = tables.table(
    "All settings, and the options of the method",
    ("setting", "value", "meaning"),
    rows,
    names=3,
  )
  return join(first, tables.fold(f"All {len(found)} settings", whole))


def _name(one: Said) -> Markup:
  return element("code", one.name)


def _meaning(one: Said) -> Markup:
  """What a setting means, with the names in it as code."""
  parts = one.meaning.split("`")
  return join(
    *(element("code", x) if i % 2 else x for i, x in enumerate(parts))
  )
