"""How many operations a compiled program starts, counted in XLA's text.

An operation is what XLA starts as one: a fusion, a product, a copy; on a GPU
each is a kernel. Those in a loop of known length count as often as it runs, and
those in other loops once.
"""

import re

# Which start nothing.
_FREE = frozenset(
  (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
  )
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) (?P<kind>[\w-]+)\("
)
_TRIPS = re.compile(r'known_trip_count":\s*\{"n":"(\d+)"')
_CALLED = re.compile(
  r"(?:to_apply|calls|called_computations|branch_computations|"
  r"(?:true|false)_computation)=\{?((?:%?[\w.-]+(?:, )?)+)\}?"
)
_BODY = re.compile(r"body=%?([\w.-]+)")


def executed(text: str) -> int:
  """Operations that one run of a program starts.

  Args:
    text: of a compiled program, as `Compiled.as_text()` gives it.
  """
  bodies, entry = _computations(text)
  known: dict[str, int] = {}

  def count(name):
    if name not in known:
      known[name] = sum(of_line(*line) for line in bodies.get(name, ()))
    return known[name]

  def of_line(kind, line):
    if kind == "while":
      trips = _TRIPS.search(line)
      body = _BODY.search(line)
      return (int(trips[1]) if trips else 1) * (count(body[1]) if body else 0)
    if kind in ("call", "conditional", "async-start"):
      parts = [
        count(name.strip().lstrip("%"))
        for found in _CALLED.finditer(line)
        for name in found[1].split(",")
        if name.strip()
      ]
      # Of a conditional, the longest branch.
      return max(parts, default=0) if kind == "conditional" else sum(parts)
    return kind not in _FREE

  return count(entry)


def _computations(text):
  """{name: [(kind, line)]} of all computations, and the name of the entry."""
  bodies: dict[str, list[tuple[str, str]]] = {}
  current, entry = None, ""
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      current = bodies.setdefault(header["name"], [])
      if line.startswith("ENTRY"):
        entry = header["name"]
    elif current is not None:
      found = _INSTRUCTION.match(line)
      if found:
        current.append((found["kind"], line))
  return bodies, entry
