"""Values of the types that settings and methods' options are declared with."""

import dataclasses
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quped_jax import checks

# Programs count in int32.
_WHOLE_LIMIT = 2**31


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
  # A null character ends the name of a file.
  return isinstance(value, str) and "\0" not in value


# What a field of some type takes, in words and as a predicate.
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
  "str": ("text", _is_text),
  "bool": ("True or False", lambda v: isinstance(v, bool)),
  "int": ("a whole number", _is_whole),
  "float": ("a number", _is_number),
  "tuple[int, ...]": (
    "a tuple of whole numbers, such as (1, 2)",
    lambda v: isinstance(v, tuple) and all(map(_is_whole, v)),
  ),
  "tuple[float, ...]": (
    "a tuple of numbers, such as (0.1,)",
    lambda v: isinstance(v, tuple) and all(map(_is_number, v)),
  ),
  str(Mapping[str, Any]): ("a mapping", lambda v: isinstance(v, Mapping)),
}


def typed(
  fields: Iterable[dataclasses.Field],
  values: Mapping[str, Any],
  prefix: str = "",
) -> dict[str, Any]:
  """The values, each of its field's type, where an int does for a float.

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
    words, fits = _TYPES[declared]
    if not fits(value):
      raise ValueError(f"{name}={shown(value)}: must be {words}")
    numbers = value if isinstance(value, tuple) else (value,)
    if "int" in declared:
      _check_whole(name, value, numbers)
    elif "float" in declared:
      _check_size(name, value, numbers)
      floats = tuple(map(float, numbers))
      result[field.name] = floats if isinstance(value, tuple) else floats[0]
  return result


def _check_whole(name: str, value: Any, numbers: tuple) -> None:
  if not all(-_WHOLE_LIMIT <= x < _WHOLE_LIMIT for x in numbers):
    raise ValueError(f"{name}={shown(value)}: must be less than 2**31 in size")


def _check_size(name: str, value: Any, numbers: tuple) -> None:
  """Refuses numbers beyond float32; rules refuse those that are not finite."""
  if any(checks.LARGEST < abs(x) < float("inf") for x in numbers):
    raise ValueError(
      f"{name}={shown(value)}: must be at most {checks.LARGEST:.2g}, which "
      "float32 holds"
    )


def shown(value: Any) -> str:
  """A value as it is written, shortened if that is long."""
  try:
    text = repr(value)
  except ValueError:  # It holds an int of thousands of digits.
    return "a number of thousands of digits"
  return text if len(text) < 200 else reprlib.repr(value)
