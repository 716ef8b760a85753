"""Arrays that users give: as NumPy arrays, or an error that names the field.

They may be of NumPy, JAX, PyTorch or pandas, or nested lists. What NumPy would
convert by losing something, such as a mask, is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from quped_jax import checks, scalars

_MAX_REASON = 200  # Characters of an error message.


def as_array(field: str, value: Any) -> np.ndarray:
  """The value as a plain NumPy array, of whatever type.

  Args:
    field: what errors call it.
    value: an array, or nested lists.

  Raises:
    ValueError: it is no array, or has masked entries.
  """
  if hasattr(value, "toarray"):
    raise ValueError(
      f"{field}: must be a dense array; got {type(value).__name__}, whose "
      "toarray() makes one"
    )
  if isinstance(value, (list, tuple)):
    if any(isinstance(entry, np.ma.MaskedArray) for entry in value):
      value = _converted(field, value, np.ma.asarray)
    elif value and hasattr(value[0], "detach"):
      value = [_detached(field, entry) for entry in value]
  if isinstance(value, np.ma.MaskedArray) and value.dtype.names is None:
    masked = int(np.ma.getmaskarray(value).sum())
    if masked:
      raise ValueError(
        f"{field}: must have no masked entries; {masked} of {value.size} are. "
        "Leave these samples out, or fill the entries with filled(...)"
      )
  if hasattr(value, "detach"):
    value = _detached(field, value)
  array = _converted(field, value)
  if array.dtype.kind == "U" and isinstance(value, (list, tuple)):
    # As they are: NumPy makes text of numbers that stand beside text.
    array = _converted(field, value, lambda x: np.asarray(x, object))
  # JAX does not know subclasses of arrays. What is mapped from a file stays so.
  return array if type(array) is np.ndarray else array.view(np.ndarray)


def _converted(
  field: str, value: Any, convert: Callable[[Any], np.ndarray] = np.asarray
) -> np.ndarray:
  try:
    return convert(value)
  except Exception as error:  # Whatever the value's own conversion raises.
    reason = str(error).partition("\n")[0][:_MAX_REASON]
    raise ValueError(
      f"{field}: must be an array, or lists of the same length at every depth; "
      f"got {type(value).__name__} ({reason})"
    ) from error


def _detached(field: str, value: Any) -> np.ndarray:
  """A PyTorch tensor, perhaps with a gradient or on a device, as an array."""
  value = value.detach()
  if hasattr(value, "cpu"):
    value = value.cpu()
  try:
    return np.asarray(value)
  except TypeError:  # NumPy does not have its type, such as bfloat16.
    if hasattr(value, "float"):
      value = value.float()
  return _converted(field, value)


def real_array(field: str, value: Any) -> np.ndarray:
  """The value as an array of bools, integers or floats that NumPy has.

  Args:
    field: what errors call it.
    value: an array, or nested lists, of real numbers.

  Raises:
    ValueError: it is anything else.
  """
  array = as_array(field, value)
  if array.dtype.kind == "O":
    array = _of_objects(field, array)
  if array.dtype.kind == "V":  # bfloat16, float8, int4 and the like.
    if jnp.issubdtype(array.dtype, jnp.floating):
      array = array.astype(np.float32)
    elif jnp.issubdtype(array.dtype, jnp.integer):
      array = array.astype(np.int32)
  if array.dtype.kind not in "buif":
    raise ValueError(f"{field}.dtype={array.dtype}: must be real numbers")
  return array


def _of_objects(field: str, array: np.ndarray) -> np.ndarray:
  """An array of Python objects that are all numbers, as one of numbers."""
  numbers = [_number(field, entry) for entry in array.ravel().tolist()]
  try:
    made = np.array(numbers)
    if made.dtype.kind == "O":  # Whole numbers of more than 64 bits.
      made = np.array(numbers, np.float64)
  except OverflowError:
    raise ValueError(f"{field}: must be numbers that float64 holds") from None
  return made.reshape(array.shape)


def _number(field: str, entry: Any) -> Any:
  try:
    return scalars.real(entry)
  except TypeError:
    pass
  try:
    return scalars.truth(entry)
  except TypeError:
    raise ValueError(
      f"{field}={checks.shown(entry)}: must be real numbers, in lists of the "
      "same length"
    ) from None


def whole_array(field: str, value: Any) -> np.ndarray:
  """The value as an array of integers; bools and whole floats do.

  Args:
    field: what errors call it.
    value: an array, or nested lists, of whole numbers.

  Raises:
    ValueError: it is anything else.
  """
  array = real_array(field, value)
  if array.dtype.kind == "b":
    return array.astype(np.int32)
  if array.dtype.kind == "f":
    array = array.astype(np.float64)
    wrong = ~np.isfinite(array) | (array != np.rint(array))
    wrong |= np.abs(array) >= 2.0**53  # Not all of these are floats.
    if wrong.any():
      raise ValueError(f"{field}={array[wrong][0]}: must be whole numbers")
    return array.astype(np.int64)
  return array


def column(array: np.ndarray) -> np.ndarray:
  """`[samples]`, of an array that is so or `[samples, 1]`."""
  return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def bools(field: str, value: Any) -> np.ndarray:
  """The value as an array of bools, `[samples]`; 0 and 1 do.

  Args:
    field: what errors call it.
    value: `[samples]` or `[samples, 1]`.

  Raises:
    ValueError: it holds anything else.
  """
  array = column(real_array(field, value))
  wrong = (array != 0) & (array != 1)
  if wrong.any():
    raise ValueError(f"{field}={array[wrong][0]}: must be bools, or 0 and 1")
  return array.astype(bool)


def texts(field: str, array: np.ndarray) -> np.ndarray | None:
  """The array as one of str, if it holds text; None if it does not.

  Args:
    field: what errors call it.
    array: of whatever type.

  Raises:
    ValueError: it holds text and something else.
  """
  if array.dtype.kind == "S":
    return np.char.decode(array, "utf-8", "backslashreplace")
  if array.dtype.kind not in "OUT":
    return None
  entries = array.ravel().tolist()
  other = [entry for entry in entries if not isinstance(entry, str)]
  if len(other) == len(entries) and entries:
    return None
  if other and is_missing(other[0]):
    raise ValueError(f"{field}={checks.shown(other[0])}: must not be missing")
  if other:
    raise ValueError(
      f"{field}={checks.shown(other[0])}: must be text, as others of them are"
    )
  for entry in set(entries):
    _check_writable(field, entry)
  return array.astype(object).astype(str)


def is_missing(entry: Any) -> bool:
  """Whether an entry stands for one that is not there."""
  # NaN, NaT and pandas' NA are not equal to themselves; what is an array, or
  # holds some, has no one answer.
  try:
    return entry is None or not bool(entry == entry)
  except TypeError:
    return True
  except ValueError:
    return False


def _check_writable(field: str, text: str) -> None:
  """Refuses text that would be another, or none, once it is stored."""
  try:
    text.encode()
  except UnicodeEncodeError:
    pass
  else:
    if "\0" not in text:  # NumPy drops it from the end of a text.
      return
  raise ValueError(
    f"{field}={checks.shown(text)}: must be text without NUL that UTF-8 can "
    "hold"
  )


def names(field: str, value: Any) -> tuple[np.ndarray, tuple[str, ...] | None]:
  """Numbers that stand for ids of any type, and what they stand for.

  Args:
    field: what errors call it.
    value: ids, `[samples]` or `[samples, 1]`.

  Returns:
    int32 `[samples]`, and the name of each number. Whole numbers that int32
    holds, none negative, stand for themselves, and have no names: None.

  Raises:
    ValueError: an id is missing, or has no one name.
  """
  array = column(as_array(field, value))
  if array.dtype.kind in "biuf" or array.dtype.kind == "V":
    array = real_array(field, array)
    if array.dtype.kind in "iu" and _fits(array):
      return array.astype(np.int32), None
  if array.dtype.kind == "O":
    array = _named(field, array)
  elif array.dtype.kind == "S":
    array = np.char.decode(array, "utf-8", "backslashreplace")
  elif array.dtype.kind in "fcmM" and not np.all(array == array):
    raise ValueError(f"{field}: must have no missing entries")
  unique, numbers = np.unique(array, return_inverse=True)
  if unique.dtype.kind in "UT":
    for text in unique.tolist():
      _check_writable(field, text)
  # Dates are their own text, but not that of what tolist makes of them.
  each = unique if unique.dtype.kind in "mM" else unique.tolist()
  numbers = numbers.reshape(array.shape).astype(np.int32)
  return numbers, tuple(map(_name, each))


def _fits(array: np.ndarray) -> bool:
  if not array.size:
    return True
  return array.min() >= 0 and array.max() <= np.iinfo(np.int32).max


def _named(field: str, array: np.ndarray) -> np.ndarray:
  """The names of ids that are Python objects."""
  found, result = {}, []
  for entry in array.ravel().tolist():
    if is_missing(entry):
      raise ValueError(f"{field}={checks.shown(entry)}: must not be missing")
    name = _name(entry)
    _check_writable(field, name)
    if not _same(found.setdefault(name, entry), entry):
      raise ValueError(
        f"{field}={checks.shown(entry)}: must have a name of its own; "
        f"{checks.shown(found[name])} has the same"
      )
    result.append(name)
  return np.array(result, str).reshape(array.shape)


def _same(a: Any, b: Any) -> bool:
  try:
    return bool(a == b)
  except (TypeError, ValueError):
    return False


def _name(entry: Any) -> str:
  if isinstance(entry, float) and entry.is_integer():
    return str(int(entry))  # Of a column with missing entries elsewhere.
  return str(entry)
