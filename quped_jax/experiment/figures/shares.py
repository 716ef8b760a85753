"""How samples are divided: sizes of clients, and their shares of classes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from quped_jax.experiment.figures import style

# Inches.
_SIZES_HEIGHT, _CLASS_HEIGHT = 0.75, 0.16
_LEAST_HEIGHT, _MOST_HEIGHT = 1.4, 4.0
_AROUND = 0.7  # Of a height, for what is written beside axes.

# With more clients or classes, circles are too small to tell apart.
_MOST_CLIENTS, _MOST_CLASSES = 40, 30
# Names of classes beside an axis.
_MOST_NAMES = 12
_LONGEST_NAME = 14  # Characters.
_BINS = 20
_TITLES = {"train": "training", "validation": "validation", "test": "test"}
# A circle's part of the room that it has.
_FILLED = 0.92


def draw(
  name: str,
  split: str,
  counts: np.ndarray,
  class_names: Sequence[str] | None = None,
) -> style.Figure:
  """Axes for the sizes of clients, and below them for classes, if there are.

  Args:
    name: of the dataset.
    split: "train", "validation" or "test".
    counts: samples of each class, int `[clients, classes]`; of targets that are
      no classes `[clients, 1]`.
    class_names: names of the classes; None for their numbers.
  """
  clients, classes = counts.shape
  height = np.clip(_CLASS_HEIGHT * classes, _LEAST_HEIGHT, _MOST_HEIGHT)
  few = clients <= _MOST_CLIENTS
  rows = [_SIZES_HEIGHT if classes > 1 else _LEAST_HEIGHT]
  rows += [height] if classes > 1 else []
  figure = style.figure(height=sum(rows) + _AROUND)
  axes = figure.subplots(
    len(rows), squeeze=False, sharex=few, height_ratios=rows
  )[:, 0]
  note = ""
  if few:
    _bars(axes[0], counts.sum(axis=1), last=classes == 1)
  else:
    _histogram(axes[0], counts.sum(axis=1))
  if classes > 1:
    if few and classes <= _MOST_CLASSES:
      note = _circles(axes[1], counts, (style.HALF - 0.6, height))
    else:
      _fields(figure, axes[1], counts, few)
    _name_classes(axes[1], classes, class_names)
  title = f"{name}: {_TITLES[split]} samples of {clients} clients"
  style.title(figure, title, note)
  return figure


def _bars(axes: Axes, sizes: np.ndarray, *, last: bool) -> None:
  """How many samples each client has."""
  axes.bar(np.arange(len(sizes)), sizes, width=0.8, color=style.COLOURS[0])
  style.label(axes, "client" if last else "", "samples")
  axes.grid(visible=False, axis="x")
  style.whole_numbers(axes)
  style.whole_numbers(axes, "y")


def _histogram(axes: Axes, sizes: np.ndarray) -> None:
  """How many clients have how many samples."""
  least, most = sizes.min(), sizes.max()
  # Of whole numbers, each bin has as many.
  width = -(-(most - least + 1) // _BINS)
  edges = np.arange(least, most + 1 + width, width) - 0.5
  axes.hist(sizes, bins=edges, color=style.COLOURS[0])
  style.label(axes, "samples of a client", "clients")
  axes.grid(visible=False, axis="x")
  style.whole_numbers(axes)
  style.whole_numbers(axes, "y")


def _circles(axes: Axes, counts: np.ndarray, room: tuple[float, float]) -> str:
  """A circle for each client and class; returns how to read them."""
  clients, classes = counts.shape
  cell = 72 * min(room[0] / clients, room[1] / classes)  # Points.
  client, label = np.nonzero(counts)
  found = counts[client, label]
  most = found.max(initial=0)
  area = (_FILLED * cell) ** 2 * found / max(most, 1)
  axes.scatter(client, label, s=area, color=style.COLOURS[0], linewidths=0)
  axes.set_xlim(-0.7, clients - 0.3)
  axes.set_ylim(-0.7, classes - 0.3)
  style.label(axes, "client", "class")
  style.whole_numbers(axes)
  return f"area of a circle: samples, {most} in the largest"


def _fields(
  figure: style.Figure, axes: Axes, counts: np.ndarray, few: bool
) -> None:
  """A field for each client and class, alike clients side by side."""
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  if not few:
    main = shares.argmax(axis=1)
    shares = shares[np.lexsort((-shares.max(axis=1), main))]
  image = axes.imshow(
    shares.T,
    aspect="auto",
    origin="lower",
    cmap="Greys",
    # So that small shares are seen too.
    norm=PowerNorm(0.5, vmin=0, vmax=max(shares.max(), 1e-9)),
    interpolation="nearest",
  )
  where = "client" if few else "clients, by their largest class"
  style.label(axes, where, "class")
  axes.grid(visible=False)
  style.whole_numbers(axes)
  bar = figure.colorbar(image, ax=axes, pad=0.02)
  style.label(bar.ax)
  bar.ax.grid(visible=False)
  bar.set_label("share of the client's samples", fontsize=style.SMALL)
  bar.outline.set_linewidth(style.THIN)


def _name_classes(
  axes: Axes, classes: int, names: Sequence[str] | None
) -> None:
  """Says which class is where, as far as there is room."""
  every = -(-classes // _MOST_NAMES)
  places = range(0, classes, every)
  shown = [names[i] if names is not None else str(i) for i in places]
  shown = [
    x if len(x) <= _LONGEST_NAME else x[: _LONGEST_NAME - 1] + "…"
    for x in shown
  ]
  axes.set_yticks(places, shown)
