"""Files that anyone may have written, for tests of what reads them.

A test draws some; QUPED_LONG_TESTS=1 draws many more, for half an hour or more
in all.
"""

import copy
import json
import os
import tracemalloc

from hypothesis import (
  HealthCheck,
  currently_in_test_context,
  event,
  settings,
)
from hypothesis import strategies as st

LONG = os.environ.get("QUPED_LONG_TESTS") == "1"
MANY = 10_000  # Files of a kind, then.
# Bytes that Python and NumPy may take to read or refuse a file of a few KB.
MOST_MEMORY = 8 * 2**20


def cases(few, many=MANY):
  """Sets how many cases a test draws, slowly if the machine is busy."""
  return settings(
    max_examples=many if LONG else few,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
  )


def read_or_refused(read, start, most=MOST_MEMORY):
  """What `read()` returns, or None if it raises a ValueError.

  The error must be one line that begins in a way that names the file, and it
  must not quote all of it. Memory must stay small.
  """
  tracemalloc.start()
  try:
    return read()
  except ValueError as error:
    text = str(error)
    assert text.startswith(start), text
    assert "must" in text and len(text) < 1500 and "\n" not in text, text
    if currently_in_test_context():
      event("refused: " + text.removeprefix(start)[:40])
    return None
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most, peak


@st.composite
def damaged(draw, data):
  """A file that was cut, that has flipped bits, or that is something else."""
  kind = draw(
    st.sampled_from(["cut", "flip", "length", "splice", "swap", "random"])
  )
  size = len(data)
  if kind == "cut":
    return data[: draw(st.integers(0, size - 1))]
  if kind == "length":
    length = draw(
      st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2 * size))
    )
    return length.to_bytes(8, "little") + data[8:]
  if kind == "random":
    return draw(st.binary(max_size=300))
  changed = bytearray(data)
  if kind == "flip":
    for at in draw(st.lists(st.integers(0, 8 * size - 1), min_size=1)):
      changed[at // 8] ^= 1 << at % 8
    return bytes(changed)
  start, end = sorted(draw(st.integers(0, size)) for _ in range(2))
  if kind == "splice":
    changed[start:end] = draw(st.binary(max_size=50))
  else:
    changed[start:end] = changed[start:end][::-1]
  return bytes(changed)


NUMBERS = st.one_of(
  st.integers(-3, 300),
  st.sampled_from([2**15, 2**31, 2**63, 10**30, 10**400, -(2**63)]),
  st.floats(),
)

VALUES = st.recursive(
  st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.dictionaries(st.text(max_size=8), inner, max_size=4),
  ),
  max_leaves=8,
)

_DEEP, _TWICE = "\0deep", "\0twice:"


@st.composite
def other_json(draw, value, values=VALUES):
  """A JSON text that says something else than the value, or nothing."""
  value = copy.deepcopy(value)
  for _ in range(draw(st.integers(1, 3))):
    value = _changed(draw, value, values)
  text = json.dumps(value)
  text = text.replace(json.dumps(_DEEP), "[" * 100_000 + "]" * 100_000)
  text = text.replace(json.dumps(_TWICE)[:-1], '"')
  return text.encode()


def _changed(draw, value, values):
  """The value, in one place of which is something else."""
  inside = isinstance(value, (dict, list)) and len(value)
  if not inside or draw(st.integers(0, 5)) == 0:
    return _other(draw, value, values)
  if isinstance(value, list):
    at = draw(st.integers(0, len(value) - 1))
    if draw(st.integers(0, 9)) == 0:
      return value[:at] + draw(st.sampled_from([[], [value[at]] * 2]))
    return [*value[:at], _changed(draw, value[at], values), *value[at + 1 :]]
  key = draw(st.sampled_from(sorted(value)))
  how = draw(st.sampled_from(["in", "in", "in", "drop", "twice", "name"]))
  if how == "in":
    return {**value, key: _changed(draw, value[key], values)}
  rest = {k: x for k, x in value.items() if k != key}
  if how == "drop":
    return rest
  other = _TWICE + key if how == "twice" else draw(st.text(max_size=5))
  return {**(rest if how == "name" else value), other: value[key]}


def _other(draw, value, values):
  """Something else, perhaps much like it."""
  like = [_DEEP, None, [value], {"": value}, [], {}]
  if isinstance(value, (int, float)) and abs(value) < 2**63:
    like += [bool(value), str(value), float(value), value + 0.5, -1 - value]
    like += [int(value) + 2**32, int(value) + 2**64, float("nan")]
  if isinstance(value, str):
    like += [value + " ", value + "\0", "\ud800", value.upper(), 1, True]
  return draw(st.one_of(st.sampled_from(like), values))


@st.composite
def other_text(draw, text):
  """A text some of whose cells, lines or characters are others."""
  cells = st.sampled_from(
    ["", "x", "1.0", "-1", "1_0", "+1", "\u0661", "1e3", "nan", "inf", "true"]
    + ['"', "'", ",", "\n", "\r", "\0", "0" * 50, "9" * 5000, "\ud7ff", " 1"]
  )
  lines = text.split("\n")
  for _ in range(draw(st.integers(1, 3))):
    at = draw(st.integers(0, len(lines) - 1))
    parts = lines[at].split(",")
    cell = draw(st.integers(0, len(parts) - 1))
    how = draw(st.sampled_from(["cell", "cell", "drop", "more", "line"]))
    new = draw(cells | st.text(max_size=8))
    if how == "cell":
      parts[cell] = new
    elif how == "drop":
      del parts[cell]
    elif how == "more":
      parts.insert(cell, new)
    lines[at] = ",".join(parts) if how != "line" else new
  return "\n".join(lines).encode("utf-8", "surrogatepass")
