"""Python's own numbers and text, from what users give for them.

NumPy's, JAX's and PyTorch's numbers do as well as Python's, so that a setting
has one value, however it was written. Everything else is a TypeError.
"""

import numbers
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def _item(value: Any) -> Any:
  """The entry of an array without axes, as a Python object."""
  if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
    return value
  if np.ma.is_masked(value):
    return value
  item = value.item()
  if isinstance(item, float) and str(value.dtype).endswith("float32"):
    # As it is written: 0.1, not 0.10000000149011612. In float32, in which
    # programs compute, both are the same.
    return float(str(np.float32(item)))
  return item


def plain(value: Any) -> Any:
  """Arrays and lists as tuples, numbers as Python's own; others as they are."""
  if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0):
    return tuple(map(plain, value))
  return _item(value)


def whole(value: Any) -> int:
  """A whole number, which a bool is not."""
  item = _item(value)
  if isinstance(item, bool) or not isinstance(item, numbers.Integral):
    raise TypeError
  return int(item)


def real(value: Any) -> Any:
  """A real number, which a bool is not, and which no float may hold."""
  item = _item(value)
  if isinstance(item, bool) or not isinstance(item, numbers.Real):
    raise TypeError
  return item


def truth(value: Any) -> bool:
  """True or False."""
  item = _item(value)
  if not isinstance(item, bool):
    raise TypeError
  return item


def text(value: Any) -> str:
  """Text, or a path."""
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  # A null character ends the name of a file.
  if not isinstance(value, str) or "\0" in value:
    raise TypeError
  return str.__str__(value)


def several(convert: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
  """Converts a sequence, or an array of one axis; of one alone, makes a tuple.

  Args:
    convert: converts an entry.
  """

  def convert_all(value: Any) -> tuple[T, ...]:
    if getattr(value, "ndim", None) == 1 or (
      isinstance(value, Sequence)
      and not isinstance(value, (str, bytes, bytearray, memoryview))
    ):
      return tuple(map(convert, value))
    return (convert(value),)

  return convert_all
