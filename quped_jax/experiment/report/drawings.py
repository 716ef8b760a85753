"""Figures in a page: SVG in its text, with letters that can be selected.

Only what draws needs matplotlib, and imports it.
"""

import base64
import html
import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from quped_jax.experiment import amounts, optional
from quped_jax.experiment.report.markup import Markup, element, join

_FONTS = "'DejaVu Sans', Verdana, sans-serif"
_PIXELS = 2.1  # Of a point, at most.
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
_CAPTIONS = {
  "partition": "How samples are divided over clients",
  "over_rounds": "over rounds, of each variant of the clients' models",
  "by_client": "of each client, against its bits and its training samples",
  "levels": "How levels form: a client's weights and their levels",
  "bytes": "Bytes that clients receive and send",
}


def inline(figure: Any, number: int, caption: str) -> Markup:
  """A matplotlib figure as an element of a page.

  Args:
    figure: the figure.
    number: of the figure in the page; its marks have names of their own by it.
    caption: what it is.
  """
  import matplotlib

  file = io.StringIO()
  # Letters stay letters, and marks have the same names each time; matplotlib
  # has no other way to say so.
  with matplotlib.rc_context(
    {"svg.fonttype": "none", "svg.hashsalt": f"figure {number}"}
  ):
    figure.savefig(file, format="svg", metadata={"Date": None})
  svg = embedded(file.getvalue(), f"figure-{number}", caption)
  return element("figure", svg, element("figcaption", caption))


def embedded(text: str, prefix: str, label: str) -> Markup:
  """An SVG file of matplotlib as a part of a page.

  Args:
    text: of the file.
    prefix: of all names in it, which must differ from others in the page.
    label: what it shows, for those who do not see it.
  """
  text = text[text.index("<svg") :]
  # Its style would be that of the whole page, which has the same for figures.
  text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
  used = set(re.findall(r"#([\w.-]+)", text))

  def name(found: re.Match) -> str:
    return f' id="{prefix}-{found[1]}"' if found[1] in used else ""

  text = re.sub(r'\sid="([^"]*)"', name, text)
  text = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", text)
  text = text.replace("'DejaVu Sans'", _FONTS)
  size = re.search(r'<svg\b[^>]*?\swidth="([\d.]+)pt"', text)
  assert size is not None
  # As wide as its letters are easily read, and no wider than the page.
  width = round(float(size[1]) * _PIXELS)
  text = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
  text = re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
  opening = f'<svg role="img" aria-label="{html.escape(label)}" '
  opening += f'style="max-width: {width}px"'
  return Markup(text.replace("<svg", opening, 1).strip())


def of_file(path: pathlib.Path, words: str | None = None) -> Markup:
  """A figure that lies in a file, as a picture: nothing in it is run.

  Args:
    path: of the file.
    words: what it is; by default the file's name.
  """
  words = words or path.stem.replace("_", " ")
  data = base64.b64encode(path.read_bytes()).decode()
  source = Markup(f"data:{_TYPES[path.suffix]};base64,{data}")
  return element(
    "figure",
    element("img", src=source, alt=words),
    element("figcaption", amounts.capital(words)),
  )


def caption_of(name: str) -> str:
  """What a figure of a run is, by its name in `plot_run`."""
  for end, words in _CAPTIONS.items():
    if name == end:
      return words
    if name.endswith(f"_{end}"):
      score = name.removesuffix(f"_{end}").replace("_", " ")
      return amounts.capital(f"{score} {words}")
  return amounts.capital(name.replace("_", " "))


class Numbering:
  """Draws the figures of a page, each with the next number."""

  def __init__(self):
    self._last = 0

  def draw(
    self,
    make: Callable[[], dict[str, Any]],
    files: Sequence[pathlib.Path] = (),
  ) -> Markup:
    """Figures by name, in the page.

    Args:
      make: `() -> {caption: matplotlib figure}`.
      files: figures of the run that lie in files, which come after these.
    """
    if not optional.can_draw():
      return element("p", amounts.capital(optional.ABOUT_FIGURES))
    made = []
    for caption, figure in make().items():
      self._last += 1
      made.append(inline(figure, self._last, caption))
    made += [of_file(path, caption_of(path.stem)) for path in files]
    return element("div", join(*made), class_="figures")
