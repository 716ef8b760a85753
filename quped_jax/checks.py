"""Checks of what a user gives, in one dialect: "FIELD=VALUE: must be ..."."""

import difflib
import reprlib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from quped_jax import scalars

# Of positive numbers that float32 holds in full.
SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)


def shown(value: Any) -> str:
  """A value as it is written, shortened if that is long."""
  try:
    text = repr(value)
  except ValueError:  # It holds an int of thousands of digits.
    return "a number of thousands of digits"
  return text if len(text) < 200 else reprlib.repr(value)


def whole(field: str, value: Any, smallest: int | None = None) -> int:
  """The value as an int.

  Raises:
    ValueError: it is no whole number, or less than the smallest.
  """
  try:
    number = scalars.whole(value)
  except TypeError:
    raise ValueError(
      f"{field}={shown(value)}: must be a whole number"
    ) from None
  if smallest is not None:
    at_least(field, number, smallest)
  return number


def number(field: str, value: Any) -> float:
  """The value as a float; raises a ValueError unless it is a real number."""
  try:
    return float(scalars.real(value))
  except (TypeError, OverflowError):
    raise ValueError(f"{field}={shown(value)}: must be a number") from None


def instance(field: str, value: Any, kind: type, maker: str) -> None:
  """Raises a ValueError unless the value is of a class.

  Args:
    field: what the error calls it.
    value: what a user gave.
    kind: the class.
    maker: what makes values of the class.
  """
  if not isinstance(value, kind):
    raise ValueError(
      f"{field}: must be a {kind.__name__}, as {maker} makes; got "
      f"{type(value).__name__}"
    )


def text(field: str, value: Any) -> str:
  """The value as a str; raises a ValueError unless it is text, or a path."""
  try:
    return scalars.text(value)
  except TypeError:
    raise ValueError(f"{field}={shown(value)}: must be text") from None


def unit_interval(field: str, value: float) -> None:
  """Raises a ValueError unless the value is in [0, 1]."""
  if not 0 <= value <= 1:
    raise ValueError(f"{field}={value}: must be from 0 to 1")


def positive(field: str, value: float) -> None:
  """Raises a ValueError unless it is positive and finite, also in float32."""
  _not_infinite(field, value)
  if not value > 0:
    raise ValueError(f"{field}={value}: must be positive")
  if value < SMALLEST:
    raise ValueError(
      f"{field}={value}: must be at least {SMALLEST:.2g}, as less is 0 in "
      "float32"
    )


def not_negative(field: str, value: float) -> None:
  """Raises a ValueError unless the value is at least 0 and finite."""
  _not_infinite(field, value)
  if not value >= 0:
    raise ValueError(f"{field}={value}: must be at least 0")


def _not_infinite(field: str, value: float) -> None:
  if value == float("inf"):
    raise ValueError(f"{field}={value}: must be finite")


def choice(field: str, value: str, allowed: Collection[str]) -> None:
  """Raises a ValueError unless the value is one of those allowed."""
  if not isinstance(value, str) or value not in allowed:
    raise ValueError(
      f"{field}={value!r}: must be one of {', '.join(allowed)}"
      f"{did_you_mean(value, allowed)}"
    )


def did_you_mean(value: Any, allowed: Iterable[str]) -> str:
  """What an error adds where a name is nearly one of those allowed.

  Args:
    value: what a user gave.
    allowed: the names there are.

  Returns:
    "; did you mean 'NAME'?", or "" if none is near.
  """
  names = {name.lower(): name for name in allowed}
  near = difflib.get_close_matches(str(value).lower(), list(names), n=1)
  return f"; did you mean {names[near[0]]!r}?" if near else ""


def at_least(field: str, value: int, smallest: int) -> None:
  """Raises a ValueError unless the value is at least the smallest."""
  if value < smallest:
    raise ValueError(f"{field}={value}: must be at least {smallest}")
