"""What suite `accelerator` prints, and the files that it keeps up to date."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console

from experiments.benchmarks import aims
from experiments.benchmarks.rows import Row
from quped_jax import paths
from quped_jax.experiment import blocks

THIS, OTHER = "this", "other"

_ENDS = (".jsonl", ".md")
_FIRST, _COMPILING = "first_seconds", "compile_seconds"


class Report:
  """Prints every row as it comes, and writes both files after each.

  `accelerator_DEVICE.jsonl` has a line about the machines, then one of each
  row; `accelerator_DEVICE.md` the same as a table.

  Attributes:
    results: {checkout: {key of a row: what was measured}}.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    console: rich.console.Console,
    machines: Mapping[str, dict[str, Any]],
    *,
    quick: bool,
  ):
    """Begins the files.

    Args:
      folder: where they go.
      console: where rows are printed.
      machines: {checkout: what its process said of itself}.
      quick: whether sizes are tiny.
    """
    self.results: dict[str, dict[str, dict[str, Any]]] = {
      name: {} for name in machines
    }
    self._console, self._quick, self._machines = console, quick, machines
    self._rows: dict[str, Row] = {}
    self._device = machines[THIS]["device"]
    stem = folder / f"accelerator_{self._device}"
    self.lines, self.table = (stem.with_name(stem.name + end) for end in _ENDS)
    about = {"suite": "accelerator", "quick": quick, "machines": machines}
    paths.replace_text(self.lines, json.dumps(about) + "\n")

  def add(self, row: Row, checkout: str, result: dict[str, Any]) -> None:
    """Takes a row in."""
    self._rows[row.key] = row
    self.results[checkout][row.key] = result
    with open(self.lines, "a", encoding="utf-8") as file:
      line = {
        "group": row.group,
        "name": row.name,
        "unit": row.unit,
        "checkout": checkout,
        **result,
      }
      file.write(json.dumps(line) + "\n")
    paths.replace_text(self.table, self._markdown())
    where = f"{checkout:6}" if len(self.results) > 1 else ""
    self.say(f"{row.key:55} {where}{_in_words(row, result)}")
    ratio = self.ratio(row.key)
    if ratio is not None and checkout == OTHER:
      self.say(f"{'':55} other / this: {ratio:.2f}")

  def say(self, text: str) -> None:
    self._console.print(text, highlight=False, soft_wrap=True, markup=False)

  def ratio(self, key: str) -> float | None:
    """The other checkout's time, relative to this one's."""
    this, other = (
      self.results.get(name, {}).get(key, {}).get("seconds_min")
      for name in (THIS, OTHER)
    )
    return other / this if this and other else None

  def finish(self) -> None:
    """Prints the tables of ratios and aims, and adds the aims to the file."""
    lines = self._aims()
    if len(self.results) > 1:
      rows = [
        (key, f"{ratio:.2f}")
        for key in self._rows
        for ratio in [self.ratio(key)]
        if ratio is not None
      ]
      self._print(
        "Time of the other checkout, relative to this one",
        ("row", "other / this"),
        rows,
      )
    self._print("Aims", tuple(lines[0]), [_cells(line) for line in lines])

  def _print(
    self,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
  ) -> None:
    table = blocks.make_table(title)
    for name in columns:
      table.add_column(name)
    for cells in rows:
      table.add_row(*cells)
    blocks.print_table(self._console, table)

  def _aims(self) -> list[dict[str, Any]]:
    start = self._machines[THIS]["start_seconds"]
    return aims.table(self.results[THIS], start, self._device, self._quick)

  def _markdown(self) -> str:
    both = len(self.results) > 1
    head = ["row", "unit"]
    for name in self.results:
      of = f"{name}: " if both else ""
      head += [f"{of}ms", f"{of}first run, s", f"{of}compiling, s"]
    head += ["other / this"] if both else []
    lines = [_line([*head, "notes"]), _line(["---"] * (len(head) + 1))]
    for key, row in self._rows.items():
      cells, notes = [key, row.unit], []
      for name, results in self.results.items():
        result = results.get(key, {})
        cells.append(_milliseconds(result))
        cells += [_short(result.get(x)) for x in (_FIRST, _COMPILING)]
        if name == THIS or "seconds_min" not in result:
          of = "" if name == THIS else f"{name} "
          notes += [of + text for text in [_notes(result)] if text]
      if both:
        ratio = self.ratio(key)
        cells.append("" if ratio is None else f"{ratio:.2f}")
      lines.append(_line([*cells, "; ".join(notes)]))
    found = self._aims()
    lines += ["", _line(list(found[0])), _line(["---"] * len(found[0]))]
    lines += [_line(_cells(line)) for line in found]
    about = "".join(
      f"{name}: {m['device_kind']}, commit {m['commit']}, jax "
      f"{m['versions']['jax']}, {m['date']}\n\n"
      for name, m in self._machines.items()
    )
    return about + "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _cells(line: Mapping[str, Any]) -> list[str]:
  return [_short(value) for value in line.values()]


def _short(value: Any) -> str:
  if value is None:
    return ""
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _milliseconds(result: Mapping[str, Any]) -> str:
  seconds = result.get("seconds_min")
  return "" if seconds is None else f"{1000 * seconds:.4g}"


def _notes(result: Mapping[str, Any]) -> str:
  for kind in ("missing", "failed", "left_out"):
    if kind in result:
      return f"{kind.replace('_', ' ')}: {result[kind]}"
  details = result.get("details", {})
  return ", ".join(
    f"{name.replace('_', ' ')} {_short(value)}"
    for name, value in details.items()
    if value is not None
  )


def _in_words(row: Row, result: Mapping[str, Any]) -> str:
  if "seconds_min" not in result:
    return _notes(result)
  words = f"{_milliseconds(result):>9} ms per {row.unit}"
  words += f"; first run after {result[_FIRST]:.1f} s"
  if result[_COMPILING] is not None:
    words += f", {result[_COMPILING]:.1f} of it compiling"
  notes = _notes(result)
  return f"{words}; {notes}" if notes else words
