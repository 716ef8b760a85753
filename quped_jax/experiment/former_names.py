"""What settings and files were called before, and are called now.

A setting's former name is an error that gives the present one. Files that a run
left under former names, `config.json`, `identity.json`, `summary.json` and
checkpoints, are read as if they had been written under the present ones.
"""

import re
from collections.abc import Mapping
from typing import Any

SETTINGS = {
  "attackers": "byzantine_clients",
  "kinds": "client_types",
  "new_client_steps": "held_out_client_steps",
  "new_clients": "held_out_clients",
}

SUMMARY = {
  "headline": "primary_variant",
  "kinds": "client_types",
  "new_clients": "held_out_clients",
}

PROGRESS = {"second_phase": "finetuning"}

# What checkpoints once said of data and networks is less than is compared now:
# whether a run is the same does not follow from it.
_LESS = ("federation", "networks", "content of participation_trace")

# Fields of a simulation's state, with which the paths of its arrays begin.
STATE = {".health": ".monitor", ".watch": ".divergence"}


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict:
  """The values, those with former names under the present ones.

  Args:
    values: name to value.
    names: former name to present one, `SETTINGS` say.

  Raises:
    ValueError: a value under both names.
  """
  for name in values:
    if name in names and names[name] in values:
      raise ValueError(
        f"{name}: must not be given beside {names[name]}, its present name"
      )
  return {names.get(name, name): value for name, value in values.items()}


def renamed_checkpoint(content: Mapping[str, Any]) -> dict[str, Any]:
  """What a checkpoint says of itself, under present names.

  Args:
    content: of its `progress.json`, see `quped_jax.files.checkpoint`.

  Raises:
    ValueError: a value under both names.
  """
  identity = renamed(content["identity"], SETTINGS)
  return {
    **content,
    "identity": {k: v for k, v in identity.items() if k not in _LESS},
    "progress": renamed(content["progress"], PROGRESS),
    "arrays": [[_path(path), *kind] for path, *kind in content["arrays"]],
  }


def _path(path: str) -> str:
  """The path of an array, whose first part is a field of the state."""
  return re.sub(r"^\.\w+", lambda first: STATE.get(first[0], first[0]), path)
