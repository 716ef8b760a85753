"""What differs between the run that a workdir is of and the one to begin."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from quped_jax import reading

# What the values begin with that nobody can read.
HASH = "hash "

_MOST_SHOWN = 200  # Characters of a value.


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
  """What differs between two identities, in words; [] if nothing does.

  Args:
    there: JSON values by name, such as those that were read from a file; those
      of nested ones are named `quped.lambda_p`, say.
    here: likewise, such as those of the run that is to begin.
  """
  mine, other = _flat(here), _flat(there)
  differ = [
    name
    for name in dict.fromkeys((*mine, *other))
    if name not in mine
    or name not in other
    or json.dumps(mine[name]) != json.dumps(other[name])
  ]
  # Of another method, all options are others too.
  alone = {x for x in (*there, *here) if x not in there or x not in here}
  telling = [name for name in differ if name.partition(".")[0] not in alone]
  nested = [name for name in differ if "." in name and name not in telling]
  if telling:
    differ = [name for name in differ if name not in nested]
  return [_difference(name, other, mine) for name in differ]


def refusal(
  workdir: str | os.PathLike, what: str, differ: Sequence[str]
) -> ValueError:
  """The error that keeps a workdir for the run that it is of.

  Args:
    workdir: the folder.
    what: what it has of that run, "checkpoints" say.
    differ: see `differences`.
  """
  return ValueError(
    f"workdir={os.fspath(workdir)!r}: must be another folder, or be started "
    f"anew (--restart, resume=False), since it has {what} of another run: "
    f"{'; '.join(differ)}"
  )


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
  """The options of methods under names of their own, `quped.lambda_p` say."""
  flat = {}
  for name, value in identity.items():
    if isinstance(value, Mapping):
      flat |= {f"{name}.{option}": x for option, x in value.items()}
    else:
      flat[name] = value
  return flat


def _difference(
  name: str, there: Mapping[str, Any], here: Mapping[str, Any]
) -> str:
  if name not in there:
    return f"{name} is not known there and {_shown(here[name])} here"
  if name not in here:
    return f"{name} is {_shown(there[name])} there and not known here"
  values = (there[name], here[name])
  if all(isinstance(x, str) and HASH in x for x in values):
    return f"{name} is not the same"
  return f"{name} is {_shown(there[name])} there and {_shown(here[name])} here"


def _shown(value: Any) -> str:
  if value is None:
    return "not given"
  if isinstance(value, str) and HASH in value:
    return "given"
  text = repr(value)
  return text if len(text) <= _MOST_SHOWN else reading.shown(value)
