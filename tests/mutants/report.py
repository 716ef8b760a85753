"""Tables of how many mutants the tests killed."""

import collections
import pathlib
from collections.abc import Sequence

from tests.mutants import address
from tests.mutants.run import read

_COLUMNS = ("killed", "survived", "equivalent", "lost", "not run")


def outcomes(results: pathlib.Path) -> dict[str, str]:
  """The outcome of each mutant; equivalent ones are allowed to survive."""
  records, equivalent = read(results), address.load("equivalent.json")

  def outcome(mutant):
    found = records.get(mutant.id, {}).get("outcome", "not run")
    may = found == "survived" and mutant.id in equivalent
    return "equivalent" if may else found

  return {mutant.id: outcome(mutant) for mutant in address.frozen()}


def _row(cells: Sequence[object]) -> str:
  return f"{cells[0]!s:14}" + "".join(f"{cell!s:>12}" for cell in cells[1:])


def table(results: pathlib.Path) -> str:
  """Numbers by package, and the names of mutants that were not killed."""
  found = outcomes(results)
  counts = collections.defaultdict(collections.Counter)
  for mutant in address.frozen():
    counts[mutant.package][found[mutant.id]] += 1
    counts["all"][found[mutant.id]] += 1
  lines = [_row(("package", *_COLUMNS))]
  lines += [
    _row((package, *(count[c] for c in _COLUMNS)))
    for package, count in counts.items()
    if package != "all"
  ]
  lines.append(_row(("all", *(counts["all"][c] for c in _COLUMNS))))
  for mutant in address.frozen():
    if found[mutant.id] in ("survived", "lost"):
      lines += [
        "",
        f"{mutant.id} {found[mutant.id]}: {mutant.function}",
        f"  {mutant.statement}",
        f"  {mutant.before}  ->  {mutant.after}",
      ]
  return "\n".join(lines)


def comparison(one: pathlib.Path, other: pathlib.Path) -> str:
  """How many of the mutants that the other tests killed these kill too.

  Args:
    one: results of, say, the thinned tests.
    other: results of, say, the whole suite.
  """
  here, there = outcomes(one), outcomes(other)
  lines = []
  packages = dict.fromkeys(m.package for m in address.frozen())
  for package in (*packages, "all"):
    ids = [
      m.id
      for m in address.frozen()
      if package in (m.package, "all") and there[m.id] == "killed"
    ]
    killed = sum(here[id_] == "killed" for id_ in ids)
    share = f"{killed / len(ids):.1%}" if ids else ""
    lines.append(_row((package, f"{killed} of {len(ids)}", share)))
  missed = [
    f"{id_} ({here[id_]})"
    for id_, outcome in there.items()
    if outcome == "killed" != here[id_]
  ]
  lines.append(f"killed there and not here: {', '.join(missed) or 'none'}")
  return "\n".join(lines)
