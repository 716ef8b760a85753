"""Tables of a report, with captions and headings, in boxes that scroll."""

from collections.abc import Sequence
from typing import Any

from quped_jax.experiment.report.markup import Markup, element, join


def table(
  caption: str,
  titles: Sequence[Any],
  rows: Sequence[Sequence[Any]],
  *,
  names: int = 1,
  sortable: bool = False,
) -> Markup:
  """A table whose rows have names.

  Args:
    caption: what the table is.
    titles: of the columns.
    rows: cells, as many as there are titles; text or markup. The first names
      its row.
    names: how many of the first columns are text, all others are numbers.
    sortable: whether the page's script lets readers sort the rows.
  """

  def kind(column: int) -> str | None:
    return "number" if column >= names else None

  head = element(
    "tr",
    *(
      element("th", title, scope="col", class_=kind(i))
      for i, title in enumerate(titles)
    ),
  )
  body = [
    element(
      "tr",
      element("th", row[0], scope="row"),
      *(element("td", x, class_=kind(i)) for i, x in enumerate(row[1:], 1)),
    )
    for row in rows
  ]
  whole = element(
    "table",
    element("caption", caption),
    element("thead", head),
    element("tbody", join(*body, between="\n")),
    class_="sortable" if sortable else None,
  )
  return box(caption, whole)


def box(label: str, content: Markup) -> Markup:
  """A box in which what is too wide or too long scrolls, by keys too.

  Args:
    label: what is in it.
    content: the same.
  """
  return element(
    "div", content, class_="box", role="region", aria_label=label, tabindex=0
  )


def facts(pairs: Sequence[tuple[Any, Any]]) -> Markup:
  """Names and values, those without a value left out."""
  return element(
    "dl",
    *(
      element("div", element("dt", name), element("dd", value))
      for name, value in pairs
      if value not in ("", None)
    ),
  )


def fold(title: Any, *content: Any, opened: bool = False) -> Markup:
  """What a reader may open and close.

  Args:
    title: what is in it.
    *content: the same.
    opened: whether it is open at first.
  """
  return element("details", element("summary", title), *content, open=opened)
