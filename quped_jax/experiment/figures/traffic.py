"""Bytes: what a client receives and sends, and what score they lead to."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes

from quped_jax.experiment.figures import style
from quped_jax.experiment.figures.run_data import RunData
from quped_jax.quantization import codebook

_BAR = 0.38  # Height, of a distance of 1 between groups.


def draw(run: RunData) -> style.Figure | None:
  """Bytes per round of each type of clients, and the score over all bytes.

  Args:
    run: what the run left.

  Returns:
    The figure; None if clients receive and send nothing, or if the run is of a
    version that did not say what each type of clients sends.
  """
  types = run.summary["client_types"]
  if not all("bytes_up" in x for x in types.values()):
    return None
  sent = [(x["bytes_down"], x["bytes_up"]) for x in types.values()]
  if not np.any(sent):
    return None
  figure = style.figure(height=2.4 + 0.35 * len(types))
  heights = [0.35 * len(types) + 0.25, 1.6]
  upper, lower = figure.subplots(2, 1, height_ratios=heights)
  _draw_types(upper, _names(types), np.array(sent, float))
  _draw_score(lower, run)
  style.title(
    figure,
    run.title,
    "above: what a client receives (down) and sends (up) in a round; below: "
    "both together, mean over clients",
  )
  return figure


def unit_of(most: float) -> tuple[float, str]:
  """A unit for numbers of bytes of which the largest is given."""
  for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
    if most >= size:
      return size, name
  return 1.0, "bytes"


def _names(types: Iterable[str]) -> list[str]:
  """Types of clients in words: their networks only where these differ."""
  parts = [name.rpartition("@") for name in types]
  several = len({network for network, _, _ in parts}) > 1
  return [
    f"{network}, " * several + codebook.describe_bits([int(bits)])
    for network, _, bits in parts
  ]


def _draw_types(axes: Axes, names: list[str], sent: np.ndarray) -> None:
  """Two bars for each type of clients, `[types, 2]` bytes down and up."""
  size, unit = unit_of(sent.max())
  rows = np.arange(len(names))
  for i, (name, colour) in enumerate(
    (("down", style.COLOURS[0]), ("up", style.COLOURS[5]))
  ):
    bars = axes.barh(
      rows + (i - 0.5) * _BAR, sent[:, i] / size, height=_BAR, color=colour
    )
    axes.bar_label(
      bars, fmt=f"{{:.3g}} {name}", fontsize=style.SMALL, padding=2
    )
  style.label(axes, f"{unit} of a client per round")
  axes.set_yticks(rows, names)
  axes.invert_yaxis()
  axes.grid(visible=False, axis="y")
  # Room for the words beside the bars.
  axes.set_xlim(0, 1.35 * sent.max() / size)


def _draw_score(axes: Axes, run: RunData) -> None:
  """The score over all that was received and sent so far."""
  summary = run.summary
  # Clients that are absent from a round send nothing.
  per_round = summary["bytes_up"] + summary["bytes_down"]
  per_round *= summary["clients_per_round"] / summary["clients"]
  variant = run.variants[0]
  rounds, means = run.curve(variant)
  total = rounds * per_round
  size, unit = unit_of(total[-1])
  (look,) = style.looks([variant]).values()
  style.line(axes, look, total / size, means)
  style.fit_score(axes, run.score, [means])
  style.label(axes, f"{unit} per client so far", run.axis(variant))
