"""Short texts for values that hold arrays, as a notebook's cell shows them."""

import dataclasses
import math
from typing import Any

import jax

_MOST = 60  # Characters of a field's value.


def short_repr(self: Any) -> str:
  """A text such as "Learner(params=<6 arrays, 8,970 numbers>, ...)".

  It serves as the `__repr__` of a dataclass or a NamedTuple. Arrays appear by
  type and shape, so it does not wait for them, and they may be gone. Fields
  that hold functions are left out.
  """
  if dataclasses.is_dataclass(self):
    names = [field.name for field in dataclasses.fields(self)]
  else:
    names = self._fields
  fields = [(name, getattr(self, name)) for name in names]
  shown = ", ".join(
    f"{name}={_text(field)}" for name, field in fields if not callable(field)
  )
  return f"{type(self).__name__}({shown})"


def _text(value: Any) -> str:
  if _is_array(value):
    return f"{value.dtype}{list(value.shape)}"
  if type(value).__repr__ is short_repr:
    return f"{type(value).__name__}(...)"
  if value is None or isinstance(value, (str, bool, int, float)):
    return _cut(repr(value))
  leaves = list(filter(_is_array, jax.tree.leaves(value)))
  if leaves:
    numbers = sum(math.prod(x.shape) for x in leaves)
    return (
      f"<{len(leaves)} array{'s' * (len(leaves) > 1)}, {numbers:,} numbers>"
    )
  return _cut(repr(value), f"{type(value).__name__}(...)")


def _is_array(value: Any) -> bool:
  return hasattr(value, "shape") and hasattr(value, "dtype")


def _cut(text: str, otherwise: str = "") -> str:
  if len(text) <= _MOST and "\n" not in text:
    return text
  return otherwise or f"{text[: _MOST - 3]}..."
