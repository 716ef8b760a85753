"""Files that anyone may have written: read strictly, or refused.

Python's readers are lenient: of a key that is given twice the last value
counts, NaN is JSON, `int("1_0")` is 10, `True` is 1, and a hundred thousand
brackets end in a RecursionError. Here each of these is a ValueError that says
where it is. `quped_jax.kinds` says what the values may be.
"""

import contextlib
import csv
import io
import json
import math
import os
import reprlib
from collections.abc import Iterator
from typing import Any

# Of a file that a person or a run wrote.
_MOST_BYTES = 2**28
_BLOCK = 2**20
# Lists in lists; the files here have up to five.
_MOST_DEPTH = 32
# Of a reason, which may quote the file.
_MOST_REASON = 300

_brief = reprlib.Repr()
_brief.maxlevel = 2
_brief.maxstring = 100
_brief.maxother = _brief.maxlong = 60


def shown(value: Any) -> str:
  """A value in an error: of a long or deep one, a part."""
  return _brief.repr(value)


@contextlib.contextmanager
def naming(file: str, what: str, *, absent: bool = False) -> Iterator[None]:
  """Makes errors name a file: "FILE: must be WHAT (REASON)".

  Args:
    file: what errors call the file, such as "overrides='best.json'".
    what: what it must be.
    absent: whether a FileNotFoundError stays one.

  Raises:
    ValueError: any OSError or ValueError, and what does not fit into memory.
  """
  try:
    yield
  except (OSError, ValueError, MemoryError) as error:
    if absent and isinstance(error, FileNotFoundError):
      raise
    reason = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
      reason = error.strerror
    reason = " ".join(reason.splitlines())
    if len(reason) > _MOST_REASON:
      reason = f"{reason[:_MOST_REASON]}..."
    raise ValueError(f"{file}: must be {what} ({reason})") from error


def read_text(path: str | os.PathLike, most: int | None = _MOST_BYTES) -> str:
  """The text of a file in UTF-8.

  Args:
    path: of the file.
    most: bytes that it may have; None for any number.

  Raises:
    OSError: it cannot be read.
    ValueError: a longer file, or bytes that are no text.
  """
  with open(path, "rb") as file:
    return read_bytes(file, most).decode("utf-8-sig")


def read_bytes(file: Any, most: int | None) -> bytes:
  """All that a file has that is open for reading bytes, see `read_text`."""
  parts, left = [], math.inf if most is None else most
  # In blocks: a device or a pipe has no size, and an archive may not tell it.
  while left >= 0 and (part := file.read(_BLOCK)):
    parts.append(part)
    left -= len(part)
  if left < 0:
    raise ValueError(f"it has more than {most:,} bytes")
  return b"".join(parts)


def parse_json(
  text: str | bytes, *, nan: bool = False, depth: int | None = _MOST_DEPTH
) -> Any:
  """What a JSON text says.

  Args:
    text: the text.
    nan: whether NaN and Infinity are numbers, and what is larger than any
      number is infinity.
    depth: how deep lists and objects may be nested; None for as deep as they
      can be read.

  Raises:
    ValueError: no JSON, a key that an object has twice, or too deep.
  """

  def constant(name):
    if not nan:
      raise ValueError(f"{name} is no number")
    return float(name)

  try:
    value = json.loads(
      text,
      parse_float=None if nan else _finite,
      parse_constant=constant,
      object_pairs_hook=_without_repetition,
    )
    if depth is not None:
      _check_depth(value, depth)
  except RecursionError as error:
    raise ValueError("it is nested too deeply") from error
  return value


def _finite(digits: str) -> float:
  value = float(digits)
  if math.isinf(value):
    raise ValueError(f"{shown(digits)} is too large a number")
  return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    seen = set()
    for name, _ in pairs:
      if name in seen:
        raise ValueError(f"{shown(name)}: must be given only once")
      seen.add(name)
  return found


def _check_depth(value: Any, most: int) -> None:
  level = [[value]]
  for _ in range(most + 1):
    level = [
      inner
      for x in level
      for inner in (x.values() if isinstance(x, dict) else x)
      if isinstance(inner, (dict, list))
    ]
    if not level:
      return
  raise ValueError("it is nested too deeply")


def read_json(path: str | os.PathLike, *, nan: bool = False) -> Any:
  """What a JSON file says, see `read_text` and `parse_json`."""
  return parse_json(read_text(path), nan=nan)


def read_json_lines(path: str | os.PathLike) -> list[Any]:
  """What a file says in each of its lines of JSON."""
  values = []
  for number, line in enumerate(read_text(path).splitlines(), 1):
    with placed(f"line {number}"):
      values.append(parse_json(line))
  return values


def read_csv(
  path: str | os.PathLike, columns: tuple[str, ...]
) -> list[tuple[str, dict[str, str]]]:
  """The rows of a CSV file, whose first line names its columns.

  Args:
    path: of the file.
    columns: names of columns that it must have, perhaps among others.

  Returns:
    (where it is, such as "line 2", {column: text}) of each row.

  Raises:
    OSError: it cannot be read.
    ValueError: no CSV, a column that is missing or that comes twice, or a row
      of another length.
  """
  reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
  rows = []
  try:
    names = next(reader, [])
    if not set(columns) <= set(names) or len(set(names)) != len(names):
      raise ValueError(
        f"must have the columns {','.join(columns)}, each once; got "
        f"{shown(','.join(names)) if names else 'none'}"
      )
    for cells in reader:
      place = f"line {reader.line_num}"
      if cells and len(cells) != len(names):
        raise ValueError(
          f"{place}: must have {len(names)} entries; got {len(cells)}"
        )
      if cells:
        rows.append((place, dict(zip(names, cells, strict=True))))
  except csv.Error as error:
    raise ValueError(f"line {reader.line_num}: {error}") from error
  return rows


@contextlib.contextmanager
def placed(place: str) -> Iterator[None]:
  """Makes errors begin with the place in a file that they are about."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{place}: {error}") from error
