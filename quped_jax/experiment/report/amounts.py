"""Amounts, as people read them."""

from typing import Any

_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_MINUTE, _HOUR = 60, 3600


def size(number: float | None) -> str:
  """A number of bytes: "35.9 KB"; "" if it is not known."""
  if number is None:
    return ""
  unit = 0
  while abs(number) >= 1000 and unit < len(_UNITS) - 1:
    number, unit = number / 1000, unit + 1
  digits = f"{number:,.0f}" if number >= 100 or not unit else f"{number:.3g}"
  return f"{digits} {_UNITS[unit]}"


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


def count(number: int, noun: str) -> str:
  """So many things: "1 client", "12 clients"."""
  return f"{number:,} {noun}{'s' * (number != 1)}"


def plain(number: Any) -> str:
  """A number with few digits; whole ones with all."""
  if isinstance(number, int) or number == int(number):
    return f"{int(number):,}"
  return f"{number:.3g}"


def capital(text: str) -> str:
  """Words as a title: "Accuracy over rounds"."""
  return text[:1].upper() + text[1:]
