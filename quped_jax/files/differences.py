"""What differs between the run that a workdir is of and the one to begin."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Shown in place of what is missing.
_NONE = "not known"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
  """What differs between two identities, in words; [] if nothing does.

  Args:
    there: JSON values by name, such as those that were read from a file.
    here: likewise, such as those of the run that is to begin.
  """
  there, here = _flat(there), _flat(here)
  return [
    f"{name} is {_shown(there, name)} there and {_shown(here, name)} here"
    for name in sorted(there.keys() | here.keys())
    if name not in there
    or name not in here
    or json.dumps(there[name]) != json.dumps(here[name])
  ]


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


def _shown(identity: Mapping[str, Any], name: str) -> str:
  return repr(identity[name]) if name in identity else _NONE
