"""How levels form: the weights of a few tensors around them, over the rounds.

This is the picture that explains the method. Weights begin spread out; the
regularizer pulls them to the levels, while these move to where the loss wants
them, until almost every weight lies at a level and little is lost when the
model is quantized.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patheffects import withStroke

from quped_jax.experiment import titles
from quped_jax.experiment.figures import style
from quped_jax.experiment.figures.run_data import RunData
from quped_jax.quantization import codebook

# Inches of a tensor's axes: of the only one, and of one of several.
_ALONE, _ROW = 2.0, 1.15
# Widths: the histogram at the beginning, the rounds, that at the end.
_WIDTHS = (0.8, 2.6, 0.8)
_CELLS = 80  # Along the axis of weights.
_FEW = 16  # Levels that have lines of full width.
_LEVELS = style.COLOURS[1]
# From white to a grey in which lines can still be seen.
_SHADES = LinearSegmentedColormap.from_list("shades", ["white", "#6E6E6E"])


class Development(NamedTuple):
  """How a tensor developed.

  Attributes:
    rounds: after which its weights were looked at, `[looks]`.
    edges: of the cells along the axis of weights, `[cells + 1]`.
    density: share of the weights in each cell, `[looks, cells]`.
    levels: `[looks, levels]`.
  """

  rounds: np.ndarray
  edges: np.ndarray
  density: np.ndarray
  levels: np.ndarray


def develop(looks: list[tuple[int, dict[str, Any]]]) -> Development:
  """Puts the histograms of a tensor on one axis.

  Args:
    looks: (round, what the record says of the tensor), of each look.
  """
  found = [x for _, x in looks]
  levels = np.array([x["levels"] for x in found])
  low = min(*(x["low"] for x in found), levels.min())
  high = max(*(x["high"] for x in found), levels.max())
  edges = np.linspace(low, high, _CELLS + 1)

  def cells(x):
    # Within a bin of a histogram weights count as evenly spread.
    ends = np.linspace(x["low"], x["high"], len(x["counts"]) + 1)
    below = np.append(0, np.cumsum(x["counts"])) / max(sum(x["counts"]), 1)
    return np.diff(np.interp(edges, ends, below))

  return Development(
    np.array([round_ for round_, _ in looks], float),
    edges,
    np.array([cells(x) for x in found]),
    levels,
  )


def draw(run: RunData) -> style.Figure | None:
  """Axes for each tensor: its weights and levels, from the first look on.

  Args:
    run: what the run left.

  Returns:
    The figure; None for a run that recorded no weights.
  """
  looks = [record for record in run.records if "tensors" in record]
  if not looks:
    return None
  names = list(looks[0]["tensors"])
  row = _ALONE if len(names) == 1 else _ROW
  figure = style.figure(height=row * len(names))
  all_axes = figure.subplots(
    len(names),
    3,
    sharex="col",
    sharey="row",
    width_ratios=_WIDTHS,
    squeeze=False,
  )
  for row, name in zip(all_axes, names, strict=True):
    tensor = develop([(x["round"], x["tensors"][name]) for x in looks])
    _draw_tensor(row, name, tensor)
  first, last = looks[0]["round"], looks[-1]["round"]
  words = f"round {first}", "round", f"round {last}"
  for axes, text in zip(all_axes[-1], words, strict=True):
    axes.set_xlabel(text, fontsize=style.SMALL)
  client = looks[0]["client"]
  bits = codebook.describe_bits([int(run.clients["bits"][client])])
  title = f"{titles.of_method(run.summary['method'])}: client {client}, {bits}"
  note = "grey: distribution of its weights; orange: its levels"
  style.title(figure, title, note)
  return figure


def _draw_tensor(row: np.ndarray, name: str, tensor: Development) -> None:
  first, middle, last = row
  _draw_rounds(middle, tensor)
  _draw_histogram(first, tensor, 0)
  _draw_histogram(last, tensor, -1)
  for axes in row:
    style.label(axes, "", "weight" if axes is first else "")
    axes.grid(visible=False)
  style.fit(middle, [tensor.edges])
  middle.set_title(name, fontsize=style.SMALL, pad=3)


def _draw_rounds(axes: Axes, tensor: Development) -> None:
  rounds = tensor.rounds
  # Each look has the rounds that are nearer to it than to any other.
  between = (rounds[1:] + rounds[:-1]) / 2
  borders = np.concatenate([rounds[:1], between, rounds[-1:]])
  # By its root: tails are seen beside peaks.
  shade = np.sqrt(tensor.density / tensor.density.max(1, keepdims=True))
  if len(rounds) > 1:
    axes.pcolormesh(
      borders, tensor.edges, shade.T, cmap=_SHADES, rasterized=True
    )
  few = tensor.levels.shape[1] <= _FEW
  axes.plot(
    rounds,
    tensor.levels,
    color=_LEVELS,
    linewidth=1.0 if few else 0.4,
    # A white rim, by which they are seen in grey too.
    path_effects=[withStroke(linewidth=2.2, foreground="white")] * few,
  )
  axes.set_xlim(rounds[0], max(rounds[-1], rounds[0] + 1))
  style.whole_numbers(axes)


def _draw_histogram(axes: Axes, tensor: Development, look: int) -> None:
  """The weights after one look, and marks at the levels beside them."""
  heights = np.append(tensor.density[look], 0) / tensor.density[look].max()
  axes.fill_betweenx(
    tensor.edges, heights, step="post", color=style.GREY, linewidth=0
  )
  levels = tensor.levels[look]
  width = 1.2 if len(levels) <= _FEW else 0.4
  axes.hlines(levels, 1.1, 1.35, color=_LEVELS, linewidth=width)
  axes.set_xlim(0, 1.4)
  axes.set_xticks([])
