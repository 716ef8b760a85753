"""A comparison's figures: over rounds, over bytes, and client by client."""

import pathlib
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
  FixedLocator,
  FuncFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
)

from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment.comparison import curves as curves_lib
from quped_jax.experiment.comparison.curves import Curve
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished
from quped_jax.experiment.comparison.statistics import chance
from quped_jax.experiment.figures import style
from quped_jax.experiment.scores import Score

FORMATS = ("png", "svg", "pdf")

_HEIGHT = 2.9  # Inches, of figures of curves.
_BEST = 6  # Of more curves than can be told apart.
_LABEL = 17  # Characters in a line of a curve's label.
_ASIDE = 1.12  # Where it begins; the axes end at 1.
_LETTERS = style.SMALL * 1.2 / 72  # Inches from one line to the next.
_GAP = 1.4  # Lines that a label of one line takes.
_BELOW = 0.6  # Inches of a figure that are not of its axes, about.
_DOTS = 0.15  # Inches of a row of dots.
_SCATTER = 0.33  # Of that, up and down.

# Where the axis of a share has ticks, in %.
_TICKS = (0, 20, 50, 80, 90, 95, 98, 99, 100)
# Errors below this are not told apart, in %.
_LEAST_ERROR = 0.5


class Shown(NamedTuple):
  """What figures are drawn of.

  Attributes:
    runs: {row: {seed: its finished run}}.
    names: {row: what readers call it}.
    test_samples: {seed: test samples of each client, int `[clients]`}.
  """

  runs: Mapping[Row, Mapping[int, Finished]]
  names: Mapping[Row, str]
  test_samples: Mapping[int, np.ndarray]

  @property
  def score(self) -> Score:
    """By which rows are compared."""
    some = next(iter(next(iter(self.runs.values())).values()))
    return scores_lib.of_summary(some.summary)

  def curves(self) -> dict[Row, Curve]:
    """The curves of all rows."""
    return {row: curves_lib.curve(own) for row, own in self.runs.items()}


def over_rounds(shown: Shown) -> style.Figure:
  """The score over the rounds, with a band over seeds.

  Of many rows the first and the best are told apart, and the others grey.
  """
  curves = shown.curves()
  chosen = _chosen(curves, curves_lib.best, _BEST)
  texts = {row: _broken(shown.names[row]) for row in chosen}
  axes = _axes(texts)
  looks = style.looks(list(curves), chosen)
  values: list[np.ndarray] = []
  for row, c in curves.items():
    values += _draw(axes, looks[row], c.rounds, c)
  style.label(axes, "round", _axis(shown.score))
  style.whole_numbers(axes)
  style.fit(axes, [1, *(c.rounds for c in curves.values())], "x")
  _fit(axes, values, shown.score)
  ends = {
    row: (curves[row].rounds[-1], curves[row].scores[-1]) for row in texts
  }
  _name(axes, texts, ends, looks)
  return _titled(axes, shown)


def over_bytes(shown: Shown) -> style.Figure:
  """The score over the bytes that a client has sent and received.

  Of many rows the first is told apart, and those that no other beats with as
  few bytes. One that sends nothing is a horizontal line at its last score.
  """
  curves = shown.curves()
  chosen = _chosen(curves, curves_lib.frugal, style.MOST)
  silent = {row for row, c in curves.items() if not c.megabytes[-1]}
  texts = {
    row: _broken(shown.names[row] + " (sends nothing)" * (row in silent))
    for row in chosen
  }
  axes = _axes(texts)
  looks = style.looks(list(curves), chosen)
  _megabytes(axes, [c.megabytes for r, c in curves.items() if r not in silent])
  ends: dict[Row, tuple[float, float]] = {}
  values: list[np.ndarray] = []
  for row, c in curves.items():
    if row in silent:
      _across(axes, looks[row], c.scores[-1])
      ends[row] = (axes.get_xlim()[1], c.scores[-1])
      values.append(c.scores[-1:])
    else:
      values += _draw(axes, looks[row], c.megabytes, c)
      ends[row] = (c.megabytes[-1], c.scores[-1])
  what = "MB per client, down and up"
  style.label(axes, what, _axis(shown.score))
  _fit(axes, values, shown.score)
  _name(axes, texts, ends, looks)
  return _titled(axes, shown)


def of_clients(shown: Shown) -> style.Figure:
  """A dot for each client of each seed, in a line of dots for each row.

  The best rows are on top. A client's score is known as well as its test
  samples are many: an interval above the rows says how well.
  """
  score, scale = shown.score, shown.score.scale
  scores = {
    row: [scale * run.scores for run in own.values()]
    for row, own in shown.runs.items()
  }
  means = {
    row: np.array([np.nanmean(x) for x in own]) for row, own in scores.items()
  }
  rows = sorted(scores, key=lambda row: -np.nan_to_num(means[row].mean()))
  first = next(iter(scores))
  figure = style.figure(style.HALF, 1.0 + _DOTS * (len(rows) + 1))
  axes = figure.subplots()
  style.label(axes, score.axis("each client"))
  axes.grid(visible=False, axis="y")
  rng = np.random.default_rng(0)
  for place, row in enumerate(rows):
    dots = np.concatenate(scores[row])
    colour = style.COLOURS[0] if row == first else style.GREY
    axes.plot(
      dots,
      place + rng.uniform(-_SCATTER, _SCATTER, dots.shape),
      ".",
      color=colour,
      markersize=3,
      alpha=0.6,
      mew=0,
    )
    spread = means[row].std(ddof=1) if means[row].size > 1 else 0.0
    axes.errorbar(
      means[row].mean(), place, xerr=spread, fmt="|", color="black",
      markersize=6, mew=1.2, linewidth=1.2,
    )  # fmt: skip
  axes.axvline(means[first].mean(), color=style.COLOURS[0], linewidth=0.6)
  labels = [shown.names[row] for row in rows]
  places = [float(place) for place in range(len(rows))]
  counts = np.concatenate(list(shown.test_samples.values()))
  if score.percent and np.any(counts > 0):
    typical = int(np.median(counts[counts > 0]))
    centre = float(np.mean(np.concatenate(list(means.values()))))
    low, high = (scale * x for x in chance(centre / scale, typical))
    axes.errorbar(
      centre, -1.2, xerr=[[centre - low], [high - centre]], fmt=".",
      color="black", capsize=2, linewidth=0.8, markersize=2.5,
    )  # fmt: skip
    labels.append(f"chance alone, {typical} samples")
    places.append(-1.2)
  axes.set_yticks(places, labels)
  axes.set_ylim(len(rows) - 0.4, min(places) - 0.6)
  style.fit(axes, [x for own in scores.values() for x in own], "x")
  seeds = len(shown.test_samples)
  over = f", with one standard deviation over {seeds} seeds" * (seeds > 1)
  style.title(
    figure,
    f"dots: clients, moved up and down; bars: mean{over}",
  )
  return figure


KINDS: dict[str, Callable[[Shown], style.Figure]] = {
  "rounds": over_rounds,
  "bytes": over_bytes,
  "clients": of_clients,
}
_FILES = {
  "rounds": "over_rounds",
  "bytes": "over_bytes",
  "clients": "of_clients",
}


def write(shown: Shown, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes all figures, as PNG, SVG and PDF, and returns their paths."""
  return [
    path
    for kind, name in _FILES.items()
    for path in style.save(
      KINDS[kind](shown), folder, f"{shown.score.name}_{name}", FORMATS
    )
  ]


def _axes(texts: Mapping[Row, str]) -> Any:
  """Axes beside which all curves' names have room."""
  lines = sum(text.count("\n") + _GAP for text in texts.values())
  height = max(_HEIGHT, _BELOW + _LETTERS * lines)
  return style.figure(style.HALF, height).subplots()


def _titled(axes: Axes, shown: Shown) -> Any:
  """The figure, which says what its bands are."""
  seeds = len(shown.test_samples)
  if seeds > 1:
    what = f"mean over {seeds} seeds, with one standard deviation"
    style.title(axes.figure, what)  # pyright: ignore[reportArgumentType]
  return axes.figure


def _chosen(
  curves: Mapping[Row, Curve],
  choose: Callable[[Mapping[Row, Curve], int], Sequence[Row]],
  most: int,
) -> Collection[Row]:
  """The rows that are told apart: all, unless they are too many."""
  few = len(curves) <= style.MOST
  return list(curves) if few else choose(curves, most)


def _draw(
  axes: Axes, look: style.Look, x: np.ndarray, c: Curve
) -> list[np.ndarray]:
  """Draws a curve, and returns all scores that it shows."""
  style.line(axes, look, x, c.scores)
  if not (look.highlighted and np.any(c.std)):
    return [c.scores]
  low, high = c.scores - c.std, c.scores + c.std
  style.band(axes, look, x, low, high)
  return [low, high]


def _across(axes: Axes, look: style.Look, y: float) -> None:
  """A line of a row that sends nothing."""
  width = 1.0 if look.highlighted else 0.6
  axes.axhline(y, color=look.colour, linestyle=look.line, linewidth=width)


def _megabytes(axes: Axes, sent: Sequence[np.ndarray]) -> None:
  """An axis of bytes, of whatever size."""
  if not sent:
    return
  low, high = np.min(np.concatenate(sent)), np.max(np.concatenate(sent))
  axes.set_xscale("log")
  axes.set_xlim(low / 1.2, high * 1.2)
  # With several powers of ten on the axis, these are labelled; with few, so
  # many numbers that they do not overlap.
  if high < 4 * low:
    axes.xaxis.set_major_locator(MaxNLocator(4))
  elif high < 100 * low:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter("{x:g}")
  axes.xaxis.set_minor_formatter(NullFormatter())


def _axis(score: Score) -> str:
  """What the axis of `_fit` says."""
  scale = " (log scale of the error)" * score.percent
  return score.axis("mean over clients") + scale


def _fit(axes: Axes, values: Sequence[np.ndarray], score: Score) -> None:
  """An axis of scores on which all values are."""
  if score.percent:
    _errors(axes, values)
  else:
    style.fit_score(axes, score, values)


def _errors(axes: Axes, values: Sequence[np.ndarray]) -> None:
  """An axis of shares whose errors are on a logarithmic scale.

  So that rows that end close to each other, near 100 %, are told apart, and no
  curve begins outside.
  """

  def forward(x: Any) -> Any:
    # A margin may lie beyond 100 %.
    errors = np.clip(100 - np.asarray(x, float), -0.8 * _LEAST_ERROR, None)
    return -np.log10(errors + _LEAST_ERROR)

  def back(y: Any) -> Any:
    return 100 + _LEAST_ERROR - 10 ** -np.asarray(y, float)

  axes.set_yscale("function", functions=(forward, back))
  found = np.concatenate([np.ravel(x) for x in values])
  found = forward(np.clip(found[np.isfinite(found)], 0, 100))
  low, high = (found.min(), found.max()) if found.size else forward([0, 100])
  margin = 0.05 * (high - low) or 0.1
  axes.set_ylim(*(float(back(y)) for y in (low - margin, high + margin)))
  axes.yaxis.set_major_locator(FixedLocator(_TICKS))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _name(
  axes: Any,
  texts: Mapping[Row, str],
  ends: Mapping[Row, tuple[float, float]],
  looks: Mapping[Row, style.Look],
) -> None:
  """Names curves on the right of the axes, each with a line to its end."""
  inside = (axes.transData + axes.transAxes.inverted()).transform
  wanted = [float(inside(ends[row])[1]) for row in texts]
  height = (axes.figure.get_figheight() - _BELOW) / _LETTERS  # In lines.
  sizes = [(text.count("\n") + _GAP) / height for text in texts.values()]
  for row, place in zip(texts, spread(wanted, sizes), strict=True):
    axes.annotate(
      texts[row],
      ends[row],
      xytext=(_ASIDE, place),
      textcoords="axes fraction",
      fontsize=style.SMALL,
      verticalalignment="center",
      annotation_clip=False,
      arrowprops={
        "arrowstyle": "-",
        "color": looks[row].colour,
        "linewidth": 0.7,
        "shrinkA": 1,
        "shrinkB": 1,
        "relpos": (0, 0.5),
      },
    )
  others = len(looks) - len(texts)
  if others:
    axes.text(
      _ASIDE, 0, f"{others} other rows",
      color=style.GREY, fontsize=style.SMALL, transform=axes.transAxes,
    )  # fmt: skip


def _broken(name: str) -> str:
  """A name in several lines; "1 bit" stays in one."""
  kept = re.sub(r"(\d) (bits?\b)", "\\1\N{NO-BREAK SPACE}\\2", name)
  return textwrap.fill(kept, _LABEL, break_on_hyphens=False)


def spread(wanted: Sequence[float], sizes: Sequence[float]) -> np.ndarray:
  """Places from 0 to 1, close to those that are wanted, that do not overlap.

  Args:
    wanted: the centre of each.
    sizes: how much room each takes.

  Returns:
    The centre that each gets, `[labels]`. They go below 0 if there is too
    little room.
  """
  order = np.argsort(wanted, kind="stable")
  half = np.asarray(sizes, float)[order] / 2
  places = np.nan_to_num(np.asarray(wanted, float)[order])
  places = np.maximum(places, half)
  for i in range(1, len(places)):
    places[i] = max(places[i], places[i - 1] + half[i - 1] + half[i])
  if len(places):
    places[-1] = min(places[-1], 1 - half[-1])
  for i in reversed(range(len(places) - 1)):
    places[i] = min(places[i], places[i + 1] - half[i + 1] - half[i])
  result = np.zeros(len(places))
  result[order] = places
  return result
