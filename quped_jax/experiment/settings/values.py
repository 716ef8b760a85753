"""Values of the types that settings and methods' options are declared with."""

import dataclasses
import os
from collections.abc import (
  Callable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

import numpy as np

from quped_jax import checks, scalars

# Programs count in int32.
_WHOLE_LIMIT = 2**31


class FrozenMapping(Mapping[str, Any]):
  """A mapping that does not change, so that settings are hashable.

  Args:
    values: what it maps; values that are mappings are frozen too.
  """

  def __init__(self, values: Mapping[str, Any]):
    self._values = {
      key: FrozenMapping(value) if isinstance(value, Mapping) else value
      for key, value in values.items()
    }

  def __getitem__(self, key: str) -> Any:
    return self._values[key]

  def __iter__(self) -> Iterator[str]:
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)

  def __hash__(self) -> int:
    return hash(frozenset(self._values.items()))

  def __repr__(self) -> str:
    return repr(self._values)


def _mapping(value: Any) -> Mapping[str, Any]:
  if not isinstance(value, Mapping):
    raise TypeError
  return FrozenMapping(value)


def whole_numbers(value: int | Sequence[int] | np.ndarray) -> tuple[int, ...]:
  """Whole numbers, from several or from one alone."""
  return scalars.several(scalars.whole)(value)


def numbers(value: float | Sequence[float] | np.ndarray) -> tuple[float, ...]:
  """Numbers, from several or from one alone."""
  return scalars.several(scalars.real)(value)


def names(value: str | Sequence[str]) -> tuple[str, ...]:
  """Names, from several texts or one, each maybe with commas between names."""
  texts = scalars.several(scalars.text)(value)
  each = (x.strip() for text in texts for x in text.split(","))
  return tuple(x for x in each if x)


def path(value: str | os.PathLike[str]) -> str:
  """A path, as text."""
  return scalars.text(value)


# What a field of some type takes, in words, and what makes its values of that:
# one normal form, however a value was written. It raises a TypeError.
_TYPES: dict[str, tuple[str, Callable[[Any], Any]]] = {
  "str": ("text", scalars.text),
  "bool": ("True or False", scalars.truth),
  "int": ("a whole number", scalars.whole),
  "float": ("a number", scalars.real),
  "tuple[int, ...]": ("whole numbers, such as (1, 2)", whole_numbers),
  "tuple[str, ...]": ("names, such as ('loss',)", names),
  "tuple[float, ...]": ("numbers, such as (0.1,)", numbers),
  str(Mapping[str, Any]): ("a mapping", _mapping),
}


def typed(
  fields: Iterable[dataclasses.Field],
  values: Mapping[str, Any],
  prefix: str = "",
) -> dict[str, Any]:
  """The values, each in the normal form of its field's type.

  Args:
    fields: of a dataclass.
    values: field to value, of some of the fields.
    prefix: what errors put before a field's name.

  Raises:
    ValueError: a value of another type, or a number that the programs' types
      do not hold.
  """
  result = dict(values)
  for field in fields:
    if field.name not in values:
      continue
    value, name = values[field.name], f"{prefix}{field.name}"
    declared = str(field.type)
    if declared not in _TYPES:
      declared = getattr(field.type, "__name__", "")
    if declared not in _TYPES:
      continue
    words, convert = _TYPES[declared]
    convert = field.metadata.get("converter") or convert
    try:
      normal = convert(value)
    except TypeError:
      raise ValueError(
        f"{name}={checks.shown(value)}: must be {words}"
      ) from None
    entries = normal if isinstance(normal, tuple) else (normal,)
    if "int" in declared:
      _check_whole(name, value, entries)
    elif "float" in declared:
      _check_size(name, value, entries)
      # Zero has no sign here.
      floats = tuple(float(x) + 0.0 for x in entries)
      normal = floats if isinstance(normal, tuple) else floats[0]
    result[field.name] = normal
  return result


def _check_whole(name: str, value: Any, numbers: tuple) -> None:
  if not all(-_WHOLE_LIMIT <= x < _WHOLE_LIMIT for x in numbers):
    raise ValueError(
      f"{name}={checks.shown(value)}: must be less than 2**31 in size"
    )


def _check_size(name: str, value: Any, numbers: tuple) -> None:
  """Refuses numbers beyond float32; rules refuse those that are not finite."""
  if any(0 < abs(x) < checks.SMALLEST for x in numbers):
    raise ValueError(
      f"{name}={checks.shown(value)}: must be 0, or at least "
      f"{checks.SMALLEST:.2g} in size, as less is 0 in float32"
    )
  if any(checks.LARGEST < abs(x) < float("inf") for x in numbers):
    raise ValueError(
      f"{name}={checks.shown(value)}: must be at most {checks.LARGEST:.2g}, "
      "which float32 holds"
    )
