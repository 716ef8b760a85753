"""Amounts, as people read them."""

import math
from typing import Any

_UNITS = ("KB", "MB", "GB", "TB")
_MINUTE, _HOUR = 60, 3600


def size(number: float | None) -> str:
  """A number of bytes: "35.9 KB"; "" if it is not known."""
  if number is None:
    return ""
  if number < 1000:
    return f"{number:.0f} bytes"
  for unit in _UNITS:
    number /= 1000
    # What would be rounded to 1000 is 1 of the next unit.
    if number < 999.5:
      return f"{number:.3g} {unit}"
  return f"{number:,.0f} {unit}"


def time(seconds: float | None) -> str:
  """A time: "0.12 s", "41 s", "3 min 20 s", "2 h 5 min"."""
  if seconds is None:
    return ""
  if seconds < 10:
    return f"{seconds:.2g} s"
  whole = round(seconds)
  if whole < _MINUTE:
    return f"{whole} s"
  if whole < _HOUR:
    return f"{whole // _MINUTE} min {whole % _MINUTE} s"
  return f"{whole // _HOUR:,} h {whole % _HOUR // _MINUTE} min"


def clock(seconds: float) -> str:
  """A time that runs, as a clock shows it: "1:07", "2:03:07"."""
  whole = math.ceil(seconds)
  hours, minutes = whole // _HOUR, whole // _MINUTE % 60
  if hours:
    return f"{hours}:{minutes:02d}:{whole % _MINUTE:02d}"
  return f"{minutes}:{whole % _MINUTE:02d}"


def count(number: int, noun: str) -> str:
  """So many things: "1 client", "12 clients"."""
  return f"{number:,} {noun}{'s' * (number != 1)}"


def plain(number: Any) -> str:
  """A number with few digits; whole ones with all."""
  if isinstance(number, int) or number == int(number):
    return f"{int(number):,}"
  return f"{number:.3g}"


def measured(number: float) -> str:
  """A measure, with three digits: "0.0620", "1.00", "345", "12,346"."""
  if 100 <= abs(number) < 1e9:
    return f"{number:,.0f}"
  return f"{number:#.3g}".removesuffix(".")


def capital(text: str) -> str:
  """Words as a title: "Accuracy over rounds"."""
  return text[:1].upper() + text[1:]
