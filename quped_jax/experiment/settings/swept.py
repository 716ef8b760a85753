"""What of the settings a compiled program is made of, and what it is given.

Runs that differ in the rest alone run the same programs. A program is given

- data: samples, what clients bring, and the root of all randomness, which
  follow from fields that are declared with `data=True`;
- values: numbers that are traced, of fields that are declared with
  `traced=True`, and of options that a method declares with `api.traced`.

All other settings are part of the program.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from quped_jax.experiment.settings.settings import Settings
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import levels_in_use

T = TypeVar("T")

# By name: "setting" or "method.option".
Values = dict[str, float]

# Data, but also part of some programs: the wrapper for privacy divides by the
# expected numbers of clients; with types of clients or budgets, precisions
# follow from more than `bits`.
_COUNTED = ("bits", "participation")


def values_of(settings: Settings) -> Values:
  """The numbers that programs of the settings are given.

  Only such a number of the method that is run, and none that is zero where zero
  turns something off. They are Python's, so that a traced program promotes them
  as it does constants.
  """
  return {
    name: value
    for name, field, value in _fields(settings)
    if field.metadata.get("traced")
    and (value != 0 or not field.metadata["off_at_zero"])
  }


def with_values(
  settings: Settings, values: Mapping[str, Any]
) -> tuple[Settings, Any]:
  """The settings and the method's options, with values in their places.

  Args:
    settings: where the values come from, or others of the same program.
    values: as `values_of` gives them; they may be tracers, which are not
      checked, and on which no Python code can branch.
  """
  own = {name: x for name, x in values.items() if "." not in name}
  options = {
    name.partition(".")[2]: x for name, x in values.items() if name not in own
  }
  return _holding(settings, own), _holding(settings.options(), options)


def program_of(settings: Settings) -> dict[str, Any]:
  """What programs of the settings are made of, by "setting" or "method.option".

  Two runs have the same programs if this is equal, and so are the shapes of
  their data.
  """
  values = values_of(settings)
  found = {
    name: value
    for name, field, value in _fields(settings)
    if name not in values and not field.metadata.get("data")
  }
  if settings.client_types or settings.budget_bytes or settings.dp_clip:
    found |= {name: getattr(settings, name) for name in _COUNTED}
  found["levels"] = (
    codebook_lib.max_levels_for(settings.bits) if settings.quantized else 0
  )
  found["mixed"] = levels_in_use.are_mixed(settings.turns)
  return found


def _fields(settings: Settings) -> Iterator[tuple[str, Any, Any]]:
  """Name, field and value of all settings and of the method's options."""
  options = settings.options()
  for field in dataclasses.fields(settings):
    if field.name != "method_options":
      yield field.name, field, getattr(settings, field.name)
  for field in dataclasses.fields(options):
    name = f"{settings.method}.{field.name}"
    yield name, field, getattr(options, field.name)


def _holding(made: T, values: Mapping[str, Any]) -> T:
  """A copy of a frozen dataclass with other values, which it does not check."""
  made = copy.copy(made)
  for name, value in values.items():
    object.__setattr__(made, name, value)
  return made
