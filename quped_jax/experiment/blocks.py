"""Tables on a terminal of any width: in blocks of columns, so none is cut."""

import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table


def make_table(title: str | None = None) -> rich.table.Table:
  """An empty table, as all of them look."""
  return rich.table.Table(
    title=title, box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False
  )


def print_table(
  console: rich.console.Console, table: rich.table.Table, keep: int = 1
) -> None:
  """Prints a table; of too many columns, some below the others.

  Args:
    console: where it is printed.
    table: one that `make_table` began, perhaps with a title and a caption.
    keep: how many of its first columns name the rows. Each block has these.
  """
  names, left = table.columns[:keep], table.columns[keep:]
  if table.title:
    console.print(table.title, style="italic")
  while left:
    count = len(left)
    while count > 1 and _width([*names, *left[:count]]) > console.width:
      count -= 1
    console.print()
    console.print(_table([*names, *left[:count]]))
    left = left[count:]
  console.print()
  if table.caption:
    console.print(table.caption, highlight=False)


def _width(columns: Sequence[rich.table.Column]) -> int:
  """Characters that a table of these columns takes if nothing is cut."""
  console = rich.console.Console(width=sys.maxsize)
  return console.measure(_table(columns)).maximum


def _table(columns: Sequence[rich.table.Column]) -> rich.table.Table:
  table = make_table()
  for column in columns:
    # A single column that is too wide goes on in the next line.
    table.add_column(column.header, justify=column.justify, overflow="fold")
  for cells in zip(*(column.cells for column in columns), strict=True):
    table.add_row(*cells)
  return table
