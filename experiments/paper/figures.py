"""Figures of what was found: a table's config names one in `figure`.

- `differences` (as a rule): each row less the one that it is compared with;
- `bytes`: accuracy against the bytes that a client sent and received;
- `map`: which method is best at each `place` of the parts;
- `none`: no figure.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.paper import found as found_lib
from experiments.paper.catalog import Table
from experiments.paper.found import Found
from experiments.paper.records import Store
from quped_jax import checks
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.figures import style
from quped_jax.quantization.codebook import describe_bits

_ROW = 0.16  # Inches.


def draw(table: Table, store: Store) -> dict[str, Figure]:
  """The figures of a table, by the names of their files.

  Args:
    table: the table.
    store: what was kept of it.

  Raises:
    ValueError: a figure that there is not.
  """
  kind = table.parts[0].config.get("figure", "differences")
  checks.choice("figure", kind, list(_KINDS))
  parts = [found_lib.find(table, part, store) for part in table.parts]
  return _KINDS[kind]([x for x in parts if x.comparison is not None])


def _differences(parts: Sequence[Found]) -> dict[str, Figure]:
  drawn = {}
  for own in parts:
    groups = _groups(own)
    if groups:
      drawn[_name("differences", own)] = _difference(own, groups)
  return drawn


def _name(what: str, found: Found) -> str:
  """Of a figure's file."""
  return f"{what} {found.part.name}".strip().replace(" ", "_")


def _groups(found: Found) -> dict[Row, list[Row]]:
  """{row: those that are compared with it}."""
  groups: dict[Row, list[Row]] = {}
  for row in found.records:
    other = found.reference(row)
    if other is not None and other != row:
      groups.setdefault(other, []).append(row)
  return groups


def _difference(found: Found, groups: dict[Row, list[Row]]) -> Figure:
  """A line for each row, below the one that they are compared with."""
  assert found.comparison is not None
  count = sum(len(rows) + 1 for rows in groups.values())
  figure = style.figure(style.HALF, 0.5 + _ROW * count)
  axes = figure.subplots()
  # Beside long names there is little room for words below the axis.
  style.label(axes, "points")
  axes.axvline(0, color="black", linewidth=style.THIN)
  labels, values = [], [0.0]
  for first, rows in groups.items():
    labels.append(
      f"{found.title(first)}, {describe_bits(found.part.bits(first))}:"
    )
    apart = {row: found.difference(row, first) for row in rows}
    for row in sorted(rows, key=lambda row: -apart[row].mean):
      own = apart[row]
      mean = 100 * own.mean
      low, high = mean, mean
      beyond = 0  # Of one seed nobody can tell.
      if own.low is not None and own.high is not None:
        low, high = 100 * own.low, 100 * own.high
        beyond = (low > 0) - (high < 0)
      colour = {1: style.COLOURS[0], -1: style.COLOURS[1], 0: style.GREY}
      axes.errorbar(
        mean, len(labels), xerr=[[mean - low], [high - mean]], fmt="o",
        color=colour[beyond], markersize=3, linewidth=1.2,
      )  # fmt: skip
      labels.append(_label(found, row, first))
      values += [low, high]
  axes.set_yticks(range(len(labels)), labels)
  for text in axes.get_yticklabels():
    if text.get_text().endswith(":"):
      text.set_fontweight("bold")
  axes.set_ylim(len(labels) - 0.4, -0.6)
  style.fit(axes, values, "x")
  seeds = len(found.seeds)
  note = "bars: 95 % intervals; grey: 0 is inside" if seeds > 1 else "one seed"
  style.title(figure, "accuracy less that of the row in bold", note)
  return figure


def _label(found: Found, row: Row, first: Row) -> str:
  title = found.title(row)
  return title if row.bits == first.bits else f"{title}, {row.bits_title} bits"


def _bytes(parts: Sequence[Found]) -> dict[str, Figure]:
  return {
    _name("accuracy over bytes", own): own.comparison.plot("bytes")
    for own in parts
    if own.comparison is not None
  }


def _map(parts: Sequence[Found]) -> dict[str, Figure]:
  """A square for each part, of the colour of the best method."""
  if not parts:
    return {}
  places = {own.part.name: own.part.config["place"] for own in parts}
  titles = list(next(iter(places.values())))
  across, up = (
    sorted({place[title] for place in places.values()}) for title in titles
  )
  methods = list(dict.fromkeys(row for own in parts for row in own.records))
  colours = dict(zip(methods, style.COLOURS, strict=False))
  figure = style.figure(style.FULL, 0.9 + 0.7 * len(up))
  axes = figure.subplots()
  style.label(axes, *titles)
  axes.grid(visible=False)
  for own in parts:
    x, y = (
      values.index(places[own.part.name][title])
      for values, title in zip((across, up), titles, strict=True)
    )
    _square(axes, own, x, y, colours)
  axes.set_xticks(range(len(across)), [str(value) for value in across])
  axes.set_yticks(range(len(up)), [str(value) for value in up])
  axes.set_xlim(-0.5, len(across) - 0.5)
  axes.set_ylim(-0.5, len(up) - 0.5)
  for row in methods:
    axes.plot([], [], "s", color=colours[row], label=parts[0].title(row))
  style.legend(figure, columns=len(methods))
  style.title(
    figure,
    "colour: the method with the highest accuracy; pale where others cannot be "
    "told from it",
  )
  return {"map": figure}


def _square(axes: Any, found: Found, x: int, y: int, colours: Any) -> None:
  """The best method, its accuracy, and how far the next is behind."""
  means = {
    row: 100 * float(np.mean([np.nanmean(own[s].results.scores) for s in own]))
    for row, own in found.records.items()
  }
  best, *others = sorted(means, key=lambda row: -means[row])
  apart = [found.difference(best, row) for row in others]
  clear = all(own.low is not None and own.low > 0 for own in apart)
  axes.fill_between(
    [x - 0.48, x + 0.48],
    y - 0.48,
    y + 0.48,
    color=colours[best],
    alpha=0.55 if clear else 0.2,
    linewidth=0,
  )
  lines = [f"{found.title(row)} {means[row]:.1f}" for row in (best, *others)]
  axes.text(
    x, y, "\n".join(lines), ha="center", va="center", fontsize=style.SMALL - 1
  )


_KINDS: dict[str, Callable[[Sequence[Found]], dict[str, Figure]]] = {
  "differences": _differences,
  "bytes": _bytes,
  "map": _map,
  "none": lambda parts: {},
}
