"""Pages of HTML, parsed strictly: what is wrong with one is an error."""

import html.parser
import re
from collections.abc import Iterator
from typing import Any

_VOID = {"img", "meta"}


class Element:
  """An element of a page.

  Attributes:
    name: of the element.
    attributes: its attributes.
    children: elements and text.
  """

  def __init__(self, name: str, attributes: dict[str, str | None]):
    self.name, self.attributes = name, attributes
    self.children: list[Any] = []

  def all(self, name: str | None = None) -> Iterator["Element"]:
    """It and all elements in it, of a name, in the order of the page."""
    if name in (None, self.name):
      yield self
    for child in self.children:
      if isinstance(child, Element):
        yield from child.all(name)

  def one(self, name: str) -> "Element":
    """The only element of a name."""
    (found,) = self.all(name)
    return found

  @property
  def text(self) -> str:
    """All text in it, with single spaces."""
    return " ".join(self._text().split())

  def _text(self) -> str:
    return "".join(
      x._text() if isinstance(x, Element) else x for x in self.children
    )


class _Parser(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.root = Element("", {})
    self.open = [self.root]

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    assert len(attributes) == len(attrs), f"<{tag}>: an attribute comes twice"
    made = Element(tag, attributes)
    self.open[-1].children.append(made)
    if tag not in _VOID:
      self.open.append(made)

  def handle_startendtag(self, tag, attrs):
    assert any(x.name == "svg" for x in self.open), f"<{tag}/> outside of SVG"
    self.open[-1].children.append(Element(tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open[-1].name == tag, f"</{tag}> ends <{self.open[-1].name}>"
    self.open.pop()

  def handle_data(self, data):
    self.open[-1].children.append(data)

  def unknown_decl(self, data):
    raise AssertionError(f"<![{data}]>")


def parse(text: str) -> Element:
  """The page; asserts that it is sound, and can be used by everybody."""
  assert text.startswith("<!doctype html>\n<html lang=")
  parser = _Parser()
  parser.feed(text)
  parser.close()
  assert parser.open == [parser.root], f"<{parser.open[-1].name}> has no end"
  _check_names(parser.root)
  _check_headings(parser.root)
  _check_tables(parser.root)
  for picture in parser.root.all("img"):
    assert picture.attributes["alt"]
  for drawing in parser.root.all("svg"):
    assert drawing.attributes["role"] == "img"
    assert drawing.attributes["aria-label"]
  assert parser.root.one("title").text
  return parser.root


def _check_names(root: Element) -> None:
  """Names are given once; all that is referred to is in the page."""
  names = [x.attributes["id"] for x in root.all() if "id" in x.attributes]
  assert len(set(names)) == len(names)
  for element in root.all():
    for key, value in element.attributes.items():
      value = value or ""
      if key == "aria-labelledby":
        assert value in names
      elif key in ("href", "xlink:href", "src"):
        assert value[:1] == "#" or value.startswith("data:"), value[:80]
        assert value[:1] != "#" or value[1:] in names, value
      assert not key.startswith("on"), f"{key} runs what it says"
      for inner in re.findall(r"url\((.*?)\)", value):
        assert inner[:1] == "#" and inner[1:] in names, inner
  style = root.one("style").text
  assert "url(" not in style and "@import" not in style


def _check_headings(root: Element) -> None:
  """One of the first level, and each at most a level below the one before."""
  levels = [
    int(x.name[1]) for x in root.all() if re.fullmatch("h[1-6]", x.name)
  ]
  assert levels[0] == 1 and levels.count(1) == 1
  for before, after in zip(levels, levels[1:], strict=False):
    assert after <= before + 1


def _check_tables(root: Element) -> None:
  for table in root.all("table"):
    assert table.one("caption").text
    head, *rows = table.all("tr")
    for cell in head.all("th"):
      assert cell.attributes["scope"] == "col"
    for row in rows:
      assert len(row.children) >= 1
      assert row.one("th").attributes["scope"] == "row"


def table(root: Element, caption: str) -> list[list[str]]:
  """The rows of a table, that of its titles first, as text."""
  (found,) = (x for x in root.all("table") if x.one("caption").text == caption)
  return [
    [cell.text for cell in row.all() if cell.name in ("th", "td")]
    for row in found.all("tr")
  ]
