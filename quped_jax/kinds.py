"""Kinds of values that a file may hold: checks, and what they are made of.

A check is a function of a place and a value. It returns the value, or raises a
ValueError that names the place. Checks are strict: true is not 1, nor is 1.0,
and NaN is no number unless it is said to be one.

    >>> run = record({"rounds": whole(1), "accuracy": table(number(0, 1))})
    >>> run("", {"rounds": 1.5, "accuracy": {}})
    Traceback (most recent call last):
    ValueError: rounds=1.5: must be a whole number from 1 to 2147483647
"""

import contextlib
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from quped_jax.reading import shown

# `check(place, value) -> value`.
Check = Callable[[str, Any], Any]

LARGEST = 2**31 - 1  # Of whole numbers, as int32 holds them.
_LARGEST_EXACT = 2**53  # Up to which a float holds all of them.

_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", re.ASCII)


def _refusal(place: str, value: Any, must: str) -> ValueError:
  field = f"{place}={shown(value)}" if place else shown(value)
  return ValueError(f"{field}: must be {must}")


def whole(least: int = 0, most: int = LARGEST) -> Check:
  """Checks that a value is a whole number, and not true, false or 1.0."""

  def check(place, value):
    if type(value) is not int or not least <= value <= most:
      raise _refusal(place, value, f"a whole number from {least} to {most}")
    return value

  return check


def number(
  least: float = -math.inf, most: float = math.inf, *, nan: bool = False
) -> Check:
  """Checks that a value is a number, and not true or false.

  Not a whole one beyond 2**53, which a float may have to round.

  Args:
    least: the smallest that is allowed.
    most: the largest.
    nan: whether NaN and infinity are numbers too.
  """
  limits = "" if math.isinf(least) else f", at least {least:g}"
  limits += "" if math.isinf(most) else f", at most {most:g}"

  def check(place, value):
    if type(value) is int and abs(value) <= _LARGEST_EXACT:
      if least <= value <= most:
        return value
    elif type(value) is float:
      finite = math.isfinite(value)
      if least <= value <= most if finite else nan:
        return value
    raise _refusal(place, value, f"a{'' if nan else ' finite'} number{limits}")

  return check


def text(place: str, value: Any) -> str:
  """Checks that a value is text, of characters that can be written.

  Not with NUL, which NumPy drops from the end of a text.
  """
  if isinstance(value, str) and "\0" not in value:
    with contextlib.suppress(UnicodeEncodeError):
      value.encode()
      return value
  raise _refusal(place, value, "text")


def boolean(place: str, value: Any) -> bool:
  """Checks that a value is true or false."""
  if not isinstance(value, bool):
    raise _refusal(place, value, "true or false")
  return value


def choice(*allowed: Any) -> Check:
  """Checks that a value is one of those allowed, and of its type."""

  def check(place, value):
    if not any(type(value) is type(x) and value == x for x in allowed):
      raise _refusal(place, value, f"one of {', '.join(map(str, allowed))}")
    return value

  return check


def anything(place: str, value: Any) -> Any:
  """Checks nothing."""
  del place
  return value


def optional(check: Check) -> Check:
  """Checks a value unless it is null."""
  return lambda place, value: None if value is None else check(place, value)


def entries(check: Check) -> Check:
  """Checks that a value is a list, and each of its entries."""

  def check_all(place, value):
    if not isinstance(value, list):
      raise _refusal(place, value, "a list")
    return [check(f"{place}[{i}]", x) for i, x in enumerate(value)]

  return check_all


def row(*checks: Check) -> Check:
  """Checks that a value is a list of so many entries, each of its own kind."""

  def check_all(place, value):
    if not isinstance(value, list) or len(value) != len(checks):
      raise _refusal(place, value, f"a list of {len(checks)} entries")
    pairs = enumerate(zip(checks, value, strict=True))
    return [check(f"{place}[{i}]", x) for i, (check, x) in pairs]

  return check_all


def table(check: Check) -> Check:
  """Checks that a value is an object, and each of its values."""

  def check_all(place, value):
    if not isinstance(value, dict):
      raise _refusal(place, value, "an object")
    return {
      text(place, name): check(_inside(place, name), x)
      for name, x in value.items()
    }

  return check_all


def record(
  fields: Mapping[str, Check],
  *,
  others: bool = True,
  missing: Collection[str] = (),
) -> Check:
  """Checks that a value is an object that has certain fields.

  Args:
    fields: a check for each.
    others: whether it may have more, which are not checked.
    missing: names of those that it need not have.
  """

  def check_all(place, value):
    if not isinstance(value, dict):
      raise _refusal(place, value, "an object")
    for name in fields:
      if name not in value and name not in missing:
        raise ValueError(f"{_inside(place, name)}: must be given")
    for name in value if not others else ():
      if name in fields:
        continue
      raise ValueError(
        f"{_inside(place, shown(name)[1:-1])}: must not be given; fields are "
        f"{', '.join(fields)}"
      )
    return value | {
      name: check(_inside(place, name), value[name])
      for name, check in fields.items()
      if name in value
    }

  return check_all


def _inside(place: str, name: str) -> str:
  return f"{place}.{name}" if place else name


def whole_text(
  place: str, value: str, least: int = 0, most: int = LARGEST
) -> int:
  """The whole number that a cell of a table holds, in digits."""
  found = int(value) if _WHOLE.fullmatch(value.strip(" ")) else -1
  if not least <= found <= most:
    raise _refusal(place, value, f"a whole number from {least} to {most}")
  return found


def number_text(
  place: str, value: str, least: float = -math.inf, most: float = math.inf
) -> float:
  """The number that a cell of a table holds, or NaN where it says "nan"."""
  if value == "nan":
    return math.nan
  found = float(value) if _NUMBER.fullmatch(value) else math.inf
  if not math.isfinite(found) or not least <= found <= most:
    raise _refusal(place, value, f"a number from {least:g} to {most:g}, or nan")
  return found
