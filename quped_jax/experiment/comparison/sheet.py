"""A table as text: in a terminal, in Markdown, in HTML and in LaTeX."""

import html
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import rich.console
import rich.table
from rich.text import Text

from quped_jax import paths
from quped_jax.experiment import blocks, metrics

# What LaTeX takes for something else than itself.
_LATEX = {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "|": r"\textbar{}",  # A dash, in the fonts of old.
  "-": "$-$",
  "<": "$<$",
  ">": "$>$",
  **{x: f"\\{x}" for x in "&%$#_{}"},
}
# A minus is before a digit, and not inside a word.
_SPECIAL = re.compile(r"(?<!\w)-(?=\d)|[\\~^<>|&%$#_{}]")


class Cell(NamedTuple):
  """A cell of a table.

  Attributes:
    text: what it says.
    best: whether it is set in bold.
  """

  text: str
  best: bool = False


class Sheet(NamedTuple):
  """A table, before it is known where it is shown.

  Attributes:
    titles: of the columns.
    rows: the cells of each row, as many as there are titles.
    names: how many of the first columns say what a row is of. They are set to
      the left, all others are numbers.
    title: of the whole table; "" for none.
    notes: what the columns are, a sentence each.
  """

  titles: Sequence[str]
  rows: Sequence[Sequence[Cell]]
  names: int = 1
  title: str = ""
  notes: Sequence[str] = ()


def terminal(sheet: Sheet) -> rich.table.Table:
  """The table for a terminal; `blocks.print_table` prints it."""
  table = blocks.make_table(sheet.title or None)
  table.caption = "\n".join(sheet.notes) or None
  for number, title in enumerate(sheet.titles):
    left = number < sheet.names
    table.add_column(Text(title), justify="left" if left else "right")
  for row in sheet.rows:
    table.add_row(*(Text(x, "bold" if best else "") for x, best in row))
  return table


def plain(sheet: Sheet, width: int | None = None) -> str:
  """The table as plain text.

  Args:
    sheet: the table.
    width: of the lines, in characters; that of the terminal by default. A
      wider table has some of its columns below the others.
  """
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=width, color_system=None)
  blocks.print_table(console, terminal(sheet), keep=sheet.names)
  lines = [line.rstrip() for line in stream.getvalue().strip("\n").split("\n")]
  return "\n".join(lines)


def markdown(sheet: Sheet) -> str:
  """The table in Markdown, and its notes as a list below it."""

  def line(texts) -> str:
    # A line is a row, and what is between bars is a cell.
    own = (" ".join(x.split("\n")).replace("|", "&#124;") for x in texts)
    return f"| {' | '.join(own)} |"

  rules = ["---" if i < sheet.names else "---:" for i in range(_width(sheet))]
  lines = [line(sheet.titles), line(rules)]
  for row in sheet.rows:
    lines.append(line(f"**{text}**" if best else text for text, best in row))
  notes = "".join(f"- {note}\n" for note in sheet.notes)
  return "\n".join(lines) + "\n" + (f"\n{notes}" if notes else "")


def to_html(sheet: Sheet) -> str:
  """The table as HTML, of whatever colours the page has."""

  def cells(kind, texts) -> str:
    shown = (
      f'<{kind} style="text-align:{"left" if i < sheet.names else "right"}">'
      f"{text}</{kind}>"
      for i, text in enumerate(texts)
    )
    return f"<tr>{''.join(shown)}</tr>"

  def marked(cell: Cell) -> str:
    text = html.escape(cell.text)
    return f"<b>{text}</b>" if cell.best else text

  title = f"<caption>{html.escape(sheet.title)}</caption>" * bool(sheet.title)
  head = cells("th", map(html.escape, sheet.titles))
  body = "\n".join(cells("td", map(marked, row)) for row in sheet.rows)
  notes = "".join(f"<li>{html.escape(note)}</li>" for note in sheet.notes)
  return (
    f"<table>{title}\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"
    + (f"\n<ul>{notes}</ul>" if notes else "")
  )


def latex(sheet: Sheet) -> str:
  r"""The table as a LaTeX `tabular`, which needs the package booktabs.

  Its notes are comments above it: `\input` it into a `table` with a caption of
  your own.
  """
  columns = "l" * sheet.names + "r" * (_width(sheet) - sheet.names)

  def line(texts) -> str:
    row = " & ".join(texts)
    # After the line before, these would be its arguments.
    return f"{'{}' * row.startswith(('[', '*'))}{row} \\\\"

  def marked(cell: Cell) -> str:
    text = escaped(cell.text)
    return f"\\textbf{{{text}}}" if cell.best else text

  comments = [r"needs \usepackage{booktabs}", sheet.title, *sheet.notes]
  return "\n".join(
    [
      *(f"% {text}" for text in comments if text),
      f"\\begin{{tabular}}{{{columns}}}",
      r"\toprule",
      line(map(escaped, sheet.titles)),
      r"\midrule",
      *(line(map(marked, row)) for row in sheet.rows),
      r"\bottomrule",
      r"\end{tabular}",
      "",
    ]
  )


class Tabular(Protocol):
  """What has a table to write."""

  @property
  def rows(self) -> Sequence[Mapping[str, Any]]:
    """Its rows, with numbers that are not rounded."""
    ...

  def to_markdown(self) -> str:
    """The table in Markdown."""
    ...

  def to_latex(self) -> str:
    """The table in LaTeX."""
    ...


def write(
  tabular: Tabular, folder: pathlib.Path, name: str
) -> list[pathlib.Path]:
  """Writes a table as CSV, whose numbers are not rounded, Markdown and LaTeX.

  Args:
    tabular: has it.
    folder: made if it does not exist.
    name: of the files, without what says their kind.

  Returns:
    Their paths.

  Raises:
    OSError: they cannot be written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  texts = {
    "csv": metrics.table(tabular.rows),
    "md": tabular.to_markdown(),
    "tex": tabular.to_latex(),
  }
  for kind, text in texts.items():
    paths.replace_text(folder / f"{name}.{kind}", text)
  return [folder / f"{name}.{kind}" for kind in texts]


def escaped(text: str) -> str:
  """Text as LaTeX sets it, character for character."""
  return _SPECIAL.sub(lambda found: _LATEX[found[0]], text)


def value(setting: Any) -> str:
  """The value of a setting, as tables and axes show it."""
  if isinstance(setting, tuple):
    return ", ".join(map(value, setting))
  return f"{setting:g}" if isinstance(setting, float) else str(setting)


def _width(sheet: Sheet) -> int:
  return len(sheet.titles)
