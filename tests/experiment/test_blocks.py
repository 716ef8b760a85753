"""Tables on a terminal of any width."""

import io

import pytest
import rich.console

from quped_jax.experiment import blocks
from quped_jax.experiment.comparison import sheet, tables
from tests.experiment.comparison import small


def printed(table, width: int, keep: int) -> list[str]:
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=width)
  blocks.print_table(console, table, keep=keep)
  return stream.getvalue().splitlines()


def comparison():
  results = small.make_results()
  sizes = dict(zip(results, (4000.0, 1000.0), strict=True))
  return tables.make_records(results, sizes)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_nothing_of_a_comparison_is_cut(width):
  records = comparison()
  lines = printed(sheet.terminal(tables.sheet(records)), width, keep=2)
  text = "\n".join(lines)
  assert "…" not in text
  assert max(map(len, lines)) <= width
  for column in tables.columns("local 32"):
    assert column.title in text
    for cell, _ in tables.cells(records, column):
      assert cell in text
  assert "by client" in " ".join(text.split()) or "accuracy: %" in text


def test_each_block_names_its_rows_and_they_are_as_few_as_fit():
  table = blocks.make_table("Title")
  table.caption = "Caption"
  for name in ("row", "one", "two", "three"):
    table.add_column(name)
  table.add_row("first", "a" * 10, "b" * 10, "c" * 10)
  wide = printed(table, 50, keep=1)
  assert wide[0] == "Title" and wide[-1] == "Caption"
  assert sum("first" in line for line in wide) == 1
  narrow = printed(table, 32, keep=1)
  assert [line.split() for line in narrow if "first" in line] == [
    ["first", "a" * 10, "b" * 10],
    ["first", "c" * 10],
  ]


def test_a_single_column_that_is_too_wide_goes_on_below():
  table = blocks.make_table()
  table.add_column("row")
  table.add_column("number")
  table.add_row("first", "1234567890" * 3)
  text = "".join(printed(table, 20, keep=1))
  assert "…" not in text
  assert sum(character.isdigit() for character in text) == 30
