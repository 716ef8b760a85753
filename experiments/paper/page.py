"""What was found, as Markdown: for the terminal, and for docs/RESULTS.md.

In the page, what is between `<!-- paper: TABLE VARIANT DEVICE -->` and
`<!-- end -->` is made of the files; all else is written by people.
"""

import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from experiments.paper import catalog, figures, significance, work
from experiments.paper.catalog import Table
from experiments.paper.found import Found, find
from experiments.paper.records import Store
from experiments.paper.significance import Test
from quped_jax import paths
from quped_jax.experiment import amounts, scores
from quped_jax.experiment.comparison import sheet, tables
from quped_jax.experiment.comparison.sheet import Cell, Sheet
from quped_jax.experiment.comparison.statistics import (
  Difference,
  paired_difference,
)
from quped_jax.experiment.figures import style

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "RESULTS.md"
_MADE = re.compile(
  r"(<!-- paper: (\w+) (\w+) (\S+) -->\n).*?(<!-- end -->)", re.S
)
_SHOWN = (
  "difference_mean",
  "worst",
  "gradients",
  "bytes",
  "model_bytes",
)


def text(table: Table, store: Store) -> str:
  """All that was found for a table, in Markdown.

  Args:
    table: the table.
    store: what was kept of it, on one device.
  """
  blocks = [_caption(table, store)]
  parts = [find(table, part, store) for part in table.parts]
  for found in parts:
    if found.part.name:
      blocks.append(f"**{found.part.name}**\n")
    if found.comparison is not None:
      blocks += [sheet.markdown(x) for x in _sheets(found)]
    blocks += _remarks(found)
  if tests := significance.tests(parts):
    blocks.append(sheet.markdown(_tests(parts, tests)))
  return "\n".join(blocks)


def _caption(table: Table, store: Store) -> str:
  """The command, the device and what it took."""
  done = [x.finished for x in store.runs.values() if x.finished]
  seconds = sum(x.summary["timing"]["total_seconds"] for x in done)
  tuning = sum(x["seconds"] for x in store.tuned.values())
  total, seeds = len(work.cells(table)), ", ".join(map(str, table.seeds))
  return (
    f"`python -m experiments.paper --table={table.name} "
    f"--variant={table.variant}` on {store.folder.name}: {len(store.runs)} of "
    f"{amounts.count(total, 'run')}, seeds {seeds}; "
    f"{amounts.time(seconds)}, and {amounts.time(tuning)} of tuning.\n"
  )


def _sheets(found: Found) -> list[Sheet]:
  made = [_published(found)] if "published" in found.part.config else []
  return [*made, _rows(found), *_by_type(found)]


def _rows(found: Found) -> Sheet:
  """All rows, each with its difference to the first of its precision."""
  assert found.comparison is not None
  records = []
  for row, record in zip(found.records, found.comparison.rows, strict=True):
    other = found.reference(row)
    own = None
    if other not in (None, row):
      own = found.comparison.difference(row, other)
    changed = {
      f"difference_{name}": own and getattr(own, name)
      for name in ("mean", "low", "high")
    }
    records.append({**record, **changed})
  score = next(x for x in scores.SCORES.values() if x.name in records[0])
  first = found.title(found.part.rows[0])
  columns = {column.field: column for column in tables.columns(first, score)}
  shown = [columns[name] for name in (score.name, *_SHOWN)]
  cells = [tables.cells(records, column) for column in shown]
  return Sheet(
    ("method", "bits", *(column.title for column in shown)),
    [
      [
        Cell(found.title(row)),
        Cell(row.bits_title),
        *(own[i] for own in cells),
      ]
      for i, row in enumerate(found.records)
    ],
    names=2,
  )


def _by_type(found: Found) -> list[Sheet]:
  """What each client type gains over local training; none of one type."""
  types = next(iter(found.records.values()))[found.seeds[0]].client_types
  local = [row for row in found.records if row.method == "local"]
  if not types or not local:
    return []
  base = found.records[local[0]]
  kinds = list(dict.fromkeys(types))
  rows = []
  for row, own in found.records.items():
    cells = [Cell(found.title(row)), Cell(row.bits_title)]
    for kind in kinds:
      members = {
        seed: np.array(own[seed].client_types) == kind for seed in found.seeds
      }
      pairs = [
        {
          seed: scores_of[seed].results.scores[members[seed]]
          for seed in found.seeds
        }
        for scores_of in (own, base)
      ]
      mean = np.mean([np.nanmean(x) for x in pairs[0].values()])
      gain = None if row == local[0] else paired_difference(*pairs)
      cells.append(Cell(f"{100 * mean:.1f}{_gain(gain)}"))
    rows.append(cells)
  titles = [f"{kind} ({types.count(kind)} clients)" for kind in kinds]
  note = "in brackets, what a client of the type gains over local training"
  return [Sheet(("method", "bits", *titles), rows, names=2, notes=(note,))]


def _gain(gain: Difference | None) -> str:
  if gain is None:
    return ""
  interval = ""
  if gain.low is not None and gain.high is not None:
    interval = f", {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
  return f" ({100 * gain.mean:+.1f}{interval})"


def _tests(parts: Sequence[Found], tests: Sequence[Test]) -> Sheet:
  """Each comparison, with its p values."""
  titles = {found.part.name: found.title for found in parts}
  known = [test.p for test in tests if test.p is not None]
  corrected = iter(significance.holm(known))
  rows = []
  for test in tests:
    title = titles[test.part]
    p = ("", "") if test.p is None else (test.p, next(corrected))
    rows.append(
      [
        Cell(test.part),
        Cell(f"{title(test.own)} minus {title(test.other)}"),
        Cell(test.own.bits_title),
        Cell(", ".join(f"{100 * x:+.1f}" for x in test.differences)),
        Cell(f"{100 * float(np.mean(test.differences)):+.1f}"),
        *(Cell(x if isinstance(x, str) else f"{x:.2g}") for x in p),
      ]
    )
  return Sheet(
    ("", "difference", "bits", "of each seed", "mean", "p", "Holm"),
    rows,
    names=2,
    notes=("p: paired t test over seeds; Holm: corrected for all lines",),
  )


def _published(found: Found) -> Sheet:
  """Accuracy over all test samples, of the best round, beside the published."""
  rows = []
  for row, own in found.records.items():
    best = [_best_pooled(own[seed].results.history) for seed in found.seeds]
    theirs = found.part.config["published"].get(row.method)
    ours = 100 * float(np.mean(best))
    difference = "" if theirs is None else f"{ours - theirs:+.2f}"
    rows.append(
      [
        Cell(found.title(row)),
        Cell("" if theirs is None else f"{theirs:.2f}"),
        Cell(f"{ours:.2f}"),
        Cell(difference),
      ]
    )
  return Sheet(
    ("method", "published", "ours", "difference"),
    rows,
    notes=("accuracy in %, of all test samples together, of the best round",),
  )


def _best_pooled(history: Sequence[dict]) -> float:
  """The best value over rounds of the only pooled accuracy."""
  (name,) = (name for name in history[-1] if name.endswith("/pooled"))
  return max(record[name] for record in history)


def _remarks(found: Found) -> list[str]:
  """What is missing, and why."""
  remarks = []
  for what, rows in (
    ("Diverged", found.diverged),
    ("Not run", found.missing),
  ):
    if rows:
      titles = ", ".join(row.title for row in rows)
      remarks.append(f"{what}: {titles}.\n")
  return remarks


def stores(results: pathlib.Path, table: Table) -> list[Store]:
  """What was kept of a table, for each device."""
  folder = results / table.folder
  folders = sorted(x for x in folder.glob("*") if x.is_dir())
  return [Store(path) for path in folders]


def outlook(results: pathlib.Path) -> str:
  """All tables, and how much of each is done."""
  lines = []
  for name in catalog.names():
    for variant in catalog.VARIANTS:
      table = catalog.get(name, variant)
      total = len(work.cells(table))
      done = [
        f"{len(store.runs)} on {store.folder.name}"
        for store in stores(results, table)
      ]
      lines.append(
        f"{name:12} {variant:6} {', '.join(done) or 'none'} of {total} runs"
      )
  return "\n".join(lines)


def made(page: str, results: pathlib.Path) -> str:
  """The page, with what was found by now between its marks.

  Args:
    page: its text.
    results: the folder of what is found; figures in it are shown.
  """

  def replace(match: re.Match) -> str:
    begin, table, store, end = _of(match, results)
    shown = [
      f"![{_alt(path)}]({os.path.relpath(path, PAGE.parent)})\n"
      for path in sorted(store.folder.glob("*.png"))
    ]
    return "\n".join([begin, text(table, store), *shown, end])

  return _MADE.sub(replace, page)


def write(results: pathlib.Path) -> None:
  """Draws the figures of what was found, and puts all into the page."""
  page = PAGE.read_text()
  for match in _MADE.finditer(page):
    _, table, store, _ = _of(match, results)
    for name, figure in figures.draw(table, store).items():
      style.save(figure, store.folder, name, ("png",))
  paths.replace_text(PAGE, made(page, results))


def _of(
  match: re.Match, results: pathlib.Path
) -> tuple[str, Table, Store, str]:
  """The first mark, the table and its results, and the last mark."""
  begin, name, variant, device, end = match.groups()
  table = catalog.get(name, variant)
  return begin, table, Store(results / table.folder / device), end


def _alt(path: pathlib.Path) -> str:
  return path.stem.replace("_", " ").capitalize()
