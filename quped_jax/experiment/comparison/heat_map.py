"""Heat maps: a method's score over two of its settings."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle

from quped_jax.experiment.figures import style
from quped_jax.experiment.scores import Score

# Told apart by everyone, and in grey from dark to light.
_COLOURS = "cividis"
_CELL, _LEAST = 0.34, 1.0  # Inches of a row of cells, and of all.
_AROUND = 0.8  # Inches above and below.
_MOST = 7  # Columns in which numbers have room.


def draw(
  x: tuple[str, Sequence[str]],
  y: tuple[str, Sequence[str]],
  means: np.ndarray,
  stds: np.ndarray,
  score: Score,
  title: str,
) -> style.Figure:
  """The score over two settings; the best is framed.

  Args:
    x: the name and the values of the setting from left to right.
    y: of that from bottom to top.
    means: over seeds, `[values of y, values of x]`; NaN where a run diverged.
    stds: over seeds, likewise; 0 with one seed.
    score: what it is.
    title: above the figure.
  """
  height = max(_LEAST, _CELL * len(y[1])) + _AROUND
  figure = style.figure(style.HALF, height)
  axes = figure.subplots()
  colours = matplotlib.colormaps[_COLOURS].with_extremes(bad=style.LIGHT)
  shown = score.scale * means
  image = axes.imshow(shown, origin="lower", aspect="auto", cmap=colours)
  style.label(axes, x[0])
  # A setting's name is not broken.
  axes.set_ylabel(y[0], fontsize=style.TEXT)
  axes.grid(visible=False)
  axes.set_xticks(range(len(x[1])), x[1])
  axes.set_yticks(range(len(y[1])), y[1])
  bar = figure.colorbar(image, ax=axes, pad=0.02)
  bar.set_label(score.axis("mean"), fontsize=style.TEXT)
  bar.ax.tick_params(labelsize=style.SMALL)
  bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
  known = ~np.isnan(means)
  shades = np.asarray(image.norm(shown), float)
  for row, column in np.ndindex(means.shape):
    text, dark = "diverged", False
    if known[row, column]:
      text = score.number(float(means[row, column]))
      dark = shades[row, column] < 0.5
    if known[row, column] and stds[row, column]:
      text += f"\n({score.number(float(stds[row, column]))})"
    if len(x[1]) <= _MOST:
      axes.text(
        column, row, text, color="white" if dark else "black",
        fontsize=style.SMALL - 1, ha="center", va="center",
      )  # fmt: skip
  if known.any():
    row, column = np.unravel_index(np.nanargmax(means), means.shape)
    for colour, width in (("white", 3.0), ("black", 1.5)):
      axes.add_patch(
        Rectangle(
          (float(column) - 0.47, float(row) - 0.46),
          0.94,
          0.92,
          fill=False,
          edgecolor=colour,
          linewidth=width,
        )  # fmt: skip
      )
  style.title(figure, title)
  return figure
