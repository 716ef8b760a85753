"""What settings and files were called before, and are called now.

A setting's former name is an error that gives the new one. Files that a run
left under former names, `config.json`, `summary.json` and checkpoints, are read
as if they had been written under the new ones.
"""

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

# Fields of the state of a simulation, as parts of the paths of its arrays.
STATE = {".health": ".monitor", ".watch": ".divergence"}


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict:
  """The values, those with former names under the new ones.

  Args:
    values: name to value.
    names: former name to new one: `SETTINGS`, `SUMMARY` or `PROGRESS`.
  """
  return {names.get(name, name): value for name, value in values.items()}
