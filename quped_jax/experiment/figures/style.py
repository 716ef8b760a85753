"""One look for all figures.

They are drawn in the size in which they are printed, half a page wide unless
there is a reason, with letters of 7 and 8 points. Curves differ by colour, line
and marker, so that they can be told apart in grey and by people who see few
colours. More than `MOST` curves cannot be told apart: then the few that matter
are highlighted and the others are grey, see `looks`, or each has small axes of
its own, see `grid`.

Nothing here touches matplotlib's global state for longer than it takes to write
an SVG file. pyplot is not used.
"""

import io
import math
import os
import pathlib
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure as matplotlib_figure
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from quped_jax import paths
from quped_jax.experiment.scores import Score

# Inches.
HALF, FULL = 3.3, 6.8
_HEIGHT = 2.4

# Points.
TEXT, SMALL = 8, 7
_LINE, THIN, _MARKER = 1.3, 0.6, 3.5

_DPI, _SCREEN_DPI = 240, 150

# How many curves can be told apart.
MOST = 8

# Okabe and Ito's without yellow, which is too light for lines on white; and a
# dark red. The closest pair of them differs by 16 in CIELAB for whoever lacks
# one kind of cone, and the dark red is in none of the closest pairs.
COLOURS = (
  "#0072B2",  # blue
  "#D55E00",  # vermilion
  "#009E73",  # green
  "#000000",  # black
  "#CC79A7",  # purple
  "#E69F00",  # orange
  "#56B4E9",  # sky blue
  "#661100",  # dark red
)
GREY, LIGHT = "#8C8C8C", "#D9D9D9"
_LINES: tuple[Any, ...] = (
  "-",
  (0, (5, 1.5)),
  (0, (1, 1)),
  (0, (6, 1.5, 1, 1.5)),
  (0, (3, 1)),
  (0, (6, 1.5, 1, 1.5, 1, 1.5)),
  (0, (1, 2.5)),
  (0, (10, 2)),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")

_BAND = 0.18  # Opacity.
_MARGIN = 0.05  # Of the range of what is shown, beyond it.
_MARKERS_PER_LINE = 8
_STEPS = (1, 2, 5, 10)  # Between marks of an axis, times a power of ten.
_NAME_HEIGHT = 0.16  # Inches of a line of a legend or a title.
_LETTERS = 17  # Of a title, per inch.
_WRAPPED = 24  # Characters of a line of the label of an axis.


class Look(NamedTuple):
  """How a curve looks.

  Attributes:
    colour: of its line, its markers and its band.
    line: its line style.
    marker: its marker.
    highlighted: whether it is one of those that are told apart.
  """

  colour: str
  line: Any
  marker: str
  highlighted: bool = True


_OTHER = Look(GREY, "-", "", highlighted=False)


def looks(
  names: Sequence[Any], highlighted: Collection[Any] | None = None
) -> dict[Any, Look]:
  """How each of some curves looks.

  Args:
    names: of the curves, any values that differ.
    highlighted: those to tell apart, at most `MOST`; by default all if there
      are no more, and else the first.

  Returns:
    {name: its look}; whoever is not highlighted is thin and grey.

  Raises:
    ValueError: more than can be told apart.
  """
  if highlighted is None:
    highlighted = names[:MOST]
  if len(highlighted) > MOST:
    raise ValueError(
      f"highlighted={len(highlighted)} curves: must be at most {MOST}, which "
      "can be told apart"
    )
  ours = zip(COLOURS, _LINES, _MARKERS, strict=True)
  chosen = [name for name in names if name in highlighted]
  given = dict(zip(chosen, ours, strict=False))
  return {
    name: Look(*given[name]) if name in given else _OTHER for name in names
  }


def grid(count: int, columns: int = 2) -> tuple[int, int]:
  """Rows and columns of small axes for so many curves or groups."""
  return max(math.ceil(count / columns), 1), min(columns, max(count, 1))


class Figure(matplotlib_figure.Figure):
  """A figure that a notebook shows, without pyplot."""

  def _repr_png_(self) -> bytes:
    return png(self, _SCREEN_DPI)


def figure(width: float = HALF, height: float = _HEIGHT) -> Figure:
  """An empty figure, whose layout leaves room for all text.

  Args:
    width: in inches; `HALF` of a page or `FULL`.
    height: in inches.
  """
  return Figure(figsize=(width, height), layout="constrained")


def label(axes: Axes, x: str = "", y: str = "") -> None:
  """Says what axes show, and gives them their letters and a light grid.

  Args:
    axes: the axes.
    x: what is shown from left to right, with its unit.
    y: from bottom to top, likewise; over several lines if it is long.
  """
  axes.set_xlabel(x, fontsize=TEXT)
  axes.set_ylabel(textwrap.fill(y, _WRAPPED), fontsize=TEXT)
  axes.tick_params(labelsize=SMALL, width=THIN, length=2.5)
  axes.grid(color=LIGHT, linewidth=THIN)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_linewidth(THIN)


def title(drawn: matplotlib_figure.Figure, text: str, note: str = "") -> None:
  """Says above a figure what it is of, and how to read it.

  Args:
    drawn: the figure, which grows by what the words take.
    text: what it is of.
    note: how to read it, in lines of its own.
  """
  width = int(_LETTERS * drawn.get_figwidth())
  lines = [*textwrap.wrap(text, width), *textwrap.wrap(note, width)]
  drawn.suptitle("\n".join(lines), fontsize=SMALL)
  drawn.set_figheight(drawn.get_figheight() + _NAME_HEIGHT * len(lines))


def line(
  axes: Axes,
  look: Look,
  x: Sequence[float] | np.ndarray,
  y: Sequence[float] | np.ndarray,
  name: str = "",
) -> None:
  """Draws a curve, with a few markers along it.

  Args:
    axes: where.
    look: of the curve.
    x: `[points]`.
    y: `[points]`; there is a gap where one is NaN.
    name: in the legend; "" for none.
  """
  ours = look.highlighted
  every = max(1, math.ceil(len(x) / _MARKERS_PER_LINE))
  # Each marker at places of its own, so that they do not hide each other.
  turn = _MARKERS.index(look.marker) if ours else 0
  axes.plot(
    x,
    y,
    color=look.colour,
    linestyle=look.line,
    marker=look.marker,
    markersize=_MARKER,
    markevery=(turn * every // MOST, every),
    linewidth=_LINE if ours else THIN,
    alpha=1.0 if ours else 0.6,
    zorder=3 if ours else 2,
    label=name or "_nolegend_",
  )


def band(
  axes: Axes,
  look: Look,
  x: Sequence[float] | np.ndarray,
  low: Sequence[float] | np.ndarray,
  high: Sequence[float] | np.ndarray,
) -> None:
  """Draws a band around a curve, `[points]` from `low` to `high`."""
  axes.fill_between(
    np.asarray(x, float),
    np.asarray(low, float),
    np.asarray(high, float),
    color=look.colour,
    alpha=_BAND,
    linewidth=0,
    zorder=1,
  )


def legend(
  place: Axes | matplotlib_figure.Figure,
  columns: int = 1,
  axes: Axes | None = None,
) -> None:
  """Names the curves: inside axes where there is room, or below a figure.

  Args:
    place: the axes; or the figure, which grows by what the names take.
    columns: of names.
    axes: whose curves are named below a figure; by default all.
  """
  look: dict[str, Any] = {
    "fontsize": SMALL,
    "ncols": columns,
    "handlelength": 2.8,
    "columnspacing": 1.2,
  }
  if isinstance(place, Axes):
    place.legend(loc="best", framealpha=0.85, edgecolor=LIGHT, **look)
  else:
    if axes is not None:
      look["handles"] = axes.get_legend_handles_labels()[0]
    made = place.legend(loc="outside lower center", frameon=False, **look)
    lines = math.ceil(len(made.get_texts()) / columns)
    place.set_figheight(place.get_figheight() + _NAME_HEIGHT * lines)


def fit(axes: Axes, values: Iterable[Any], axis: str = "y") -> None:
  """Limits an axis such that all values are inside, and little else.

  Args:
    axes: the axes.
    values: arrays and numbers; what is not finite does not count.
    axis: "x" or "y".
  """
  low, high = _range(values)
  margin = _MARGIN * (high - low) or _MARGIN * max(abs(high), 1.0)
  axes.set(**{f"{axis}lim": (low - margin, high + margin)})


def fit_score(axes: Axes, score: Score, values: Iterable[Any]) -> None:
  """Likewise for scores, from bottom to top, as they are shown.

  A coefficient of determination has no lowest value: if one is below -1, the
  axis is logarithmic from there on.
  """
  values = list(values)
  low, high = _range(values)
  if score.percent or low >= -1:
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=_STEPS))
    fit(axes, values)
    return
  axes.set_yscale("symlog", linthresh=1)
  axes.set_ylim(1.5 * low, high + _MARGIN)


def _range(values: Iterable[Any]) -> tuple[float, float]:
  """The smallest and the largest finite value; (0, 1) if there is none."""
  found = np.concatenate([np.ravel(np.asarray(x, float)) for x in values])
  found = found[np.isfinite(found)]
  if not found.size:
    return 0.0, 1.0
  return float(found.min()), float(found.max())


def whole_numbers(axes: Axes, axis: str = "x") -> None:
  """Lets an axis of counts, such as rounds, have whole numbers only."""
  own = axes.xaxis if axis == "x" else axes.yaxis
  own.set_major_locator(MaxNLocator("auto", integer=True, steps=_STEPS))


def png(drawn: matplotlib_figure.Figure, dpi: int = _DPI) -> bytes:
  """A figure as a PNG file."""
  file = io.BytesIO()
  drawn.savefig(file, format="png", dpi=dpi)
  return file.getvalue()


def save(
  drawn: matplotlib_figure.Figure,
  folder: str | os.PathLike,
  name: str,
  formats: Sequence[str] = ("png", "svg"),
) -> list[pathlib.Path]:
  """Writes a figure, whose files are the same each time.

  Args:
    drawn: the figure.
    folder: which exists.
    name: of the files, without their endings.
    formats: of "png", "svg" and "pdf".

  Returns:
    The files' paths.

  Raises:
    OSError: they cannot be written.
  """
  written = []
  engine = drawn.get_layout_engine()
  try:
    for kind in formats:
      written.append(pathlib.Path(folder) / f"{name}.{kind}")
      write(drawn, written[-1], kind)
      # All is in its place now, which takes a third of the time to find.
      drawn.set_layout_engine("none")
  finally:
    drawn.set_layout_engine(engine)
  return written


def write(
  drawn: matplotlib_figure.Figure, path: pathlib.Path, kind: str
) -> None:
  """Writes a figure as one file, which is the same each time.

  Args:
    drawn: the figure.
    path: of the file.
    kind: "png", or another format that matplotlib knows.

  Raises:
    OSError: it cannot be written.
  """
  # Without dates, and with the same marks in every SVG file; matplotlib has no
  # other way to say the latter.
  dates: dict[str, Any] = {
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
  }
  with (
    matplotlib.rc_context({"svg.hashsalt": path.stem}),
    paths.replacing(path) as file,
  ):
    drawn.savefig(file, format=kind, dpi=_DPI, **dates.get(kind, {}))
