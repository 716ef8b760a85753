"""What was found, as Markdown: for the terminal, and for docs/RESULTS.md.

In the page, what is between `<!-- paper: TABLE VARIANT DEVICE -->` and
`<!-- end -->` is made of the files; all else is written by people.
"""

import os
import pathlib
import re
import textwrap

from experiments.paper import catalog, figures, sheets, work
from experiments.paper.catalog import Table
from experiments.paper.found import Found, find
from experiments.paper.records import Store
from quped_jax import paths
from quped_jax.experiment import amounts
from quped_jax.experiment.comparison import sheet
from quped_jax.experiment.figures import style
from quped_jax.quantization.codebook import describe_bits

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "RESULTS.md"
_MADE = re.compile(
  r"(<!-- paper: (\w+) (\w+) (\S+) -->\n).*?(<!-- end -->)", re.S
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
      blocks += [sheet.markdown(x) for x in sheets.of_part(found)]
    blocks += _remarks(found)
  more = sheets.of_tests(parts), sheets.of_tuning(table, store)
  blocks += [sheet.markdown(x) for x in more if x is not None]
  return "\n".join(blocks)


def _caption(table: Table, store: Store) -> str:
  """The command, the device and what it took."""
  done = [x.finished for x in store.runs.values() if x.finished]
  seconds = sum(x.summary["timing"]["total_seconds"] for x in done)
  tuning = sum(x["seconds"] for x in store.tuned.values())
  total = len(work.cells(table))
  seeds = sorted({key.seed for key in store.runs})
  text = (
    f"`python -m experiments.paper --table={table.name} "
    f"--variant={table.variant}` on {store.folder.name}: {len(store.runs)} of "
    f"{amounts.count(total, 'run')}, {'seed' if len(seeds) == 1 else 'seeds'} "
    f"{', '.join(map(str, seeds))}; {amounts.time(seconds)}"
  )
  if tuning:
    text += f", and {amounts.time(tuning)} of tuning"
  if former := work.of_former_settings(table, store):
    text += f". {former} of the runs are older than the table's settings"
  return f"{text}.\n"


def _remarks(found: Found) -> list[str]:
  """What is missing, and why."""
  remarks = []
  for what, rows in (
    ("Diverged", found.diverged),
    ("Not run", found.missing),
  ):
    if rows:
      titles = "; ".join(
        f"{found.title(row)} ({describe_bits(found.part.bits(row))})"
        for row in rows
      )
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
      done = []
      for store in stores(results, table):
        former = work.of_former_settings(table, store)
        other = f" ({former} older than its settings)" if former else ""
        done.append(f"{len(store.runs)} on {store.folder.name}{other}")
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
    return "\n".join([begin, _wrapped(text(table, store)), *shown, end])

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


def _wrapped(text: str) -> str:
  """The text, in lines of 80 columns but for tables."""
  return "\n".join(
    line
    if line.startswith("|")
    else textwrap.fill(
      line,
      80,
      subsequent_indent="  " * line.startswith("- "),
      break_long_words=False,
      break_on_hyphens=False,
    )
    for line in text.split("\n")
  )


def _alt(path: pathlib.Path) -> str:
  return path.stem.replace("_", " ").capitalize()
