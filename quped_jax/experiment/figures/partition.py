"""The picture of a partition: which client has how much of what."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks, paths
from quped_jax.data import targets
from quped_jax.data.federation import SPLITS, Federation, Pool

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Inches; half a page.
_WIDTH = 3.4
_SIZES_HEIGHT, _CLASS_HEIGHT = 0.75, 0.16
_LEAST_HEIGHT, _MOST_HEIGHT = 1.4, 4.0
# Points.
_TEXT, _SMALL, _THIN = 8, 7, 0.6
_INK, _LIGHT = "#0072B2", "#D9D9D9"
_DPI = 300

# With more clients or classes, circles are too small to tell apart.
_MOST_CLIENTS, _MOST_CLASSES = 40, 30
# Names of classes beside an axis.
_MOST_NAMES = 12
_LONGEST_NAME = 14  # Characters.
_BINS = 20
_TITLES = {"train": "training", "validation": "validation", "test": "test"}
# A circle's part of the room that it has.
_FILLED = 0.92


def plot_partition(
  federation: Federation,
  path: str | os.PathLike | None = None,
  *,
  split: str = "train",
  class_names: Sequence[str] | None = None,
) -> Figure:
  """Draws how samples are divided over clients.

  At the top is how many samples each client has. Below, up to 40 clients and 30
  classes have a circle each, whose area is the number of samples; more of them
  have a field each, the darker the larger the class's share of the client's
  samples, with alike clients side by side. Clients whose targets are no classes
  have the first part alone.

  Args:
    federation: the samples of all clients.
    path: where the figure is also saved, as what its ending says, such as
      "partition.pdf"; None for nowhere.
    split: "train", "validation" or "test".
    class_names: names of the classes; None for their numbers.

  Returns:
    A matplotlib Figure, half a page wide.

  Raises:
    ValueError: there is no such split; names that are not as many as classes; a
      path that no figure can be saved at.
    ImportError: matplotlib is not installed.

  Examples:
    >>> inputs = np.random.default_rng(0).normal(size=(40, 5))
    >>> data = qj.from_arrays(inputs, np.arange(40) % 2)
    >>> federation = qj.make_federation(data, qj.partition(data, "iid", 4))
    >>> figure = qj.plot_partition(federation, "partition.png")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['samples', 'class']
  """
  checks.instance("federation", federation, Federation, "make_federation")
  checks.choice("split", split, SPLITS)
  if importlib.util.find_spec("matplotlib") is None:
    raise ImportError(
      "matplotlib is not installed, which draws figures: "
      "pip install 'quped_jax[plot]'"
    )
  counts = class_counts(federation, split)
  if class_names is not None and len(class_names) != counts.shape[1]:
    raise ValueError(
      f"class_names: must be {counts.shape[1]} names; got {len(class_names)}"
    )
  figure = _figure(federation, split, counts, class_names)
  if path is not None:
    _save(figure, path)
  return figure


def class_counts(federation: Federation, split: str = "train") -> np.ndarray:
  """How many samples of each class each client has, int `[clients, classes]`.

  Targets that are no classes count as one class.

  Args:
    federation: the samples.
    split: "train", "validation" or "test".
  """
  part = getattr(federation, split)
  if not isinstance(federation.source, Pool):
    return _drawn_counts(federation, split)
  labels = np.asarray(federation.source.labels)
  classes = 1
  if targets.kind_of(labels) == "classes":
    classes = federation.num_classes
  labels = targets.strata(labels)
  rows = None if part.rows is None else np.asarray(part.rows)
  result = np.zeros((federation.num_clients, classes), int)
  for client, (offset, count) in enumerate(
    zip(np.asarray(part.offset), np.asarray(part.count), strict=True)
  ):
    own = np.arange(offset, offset + count)
    own = labels[own if rows is None else rows[own]]
    result[client] = np.bincount(own, minlength=classes)
  return result


def _drawn_counts(federation: Federation, split: str) -> np.ndarray:
  """Likewise, of samples that are made when they are drawn."""

  def count(client_id):
    data = federation.client(client_id)
    part = getattr(data, split)
    places = jnp.arange(max(part.max_count, 1), dtype=jnp.int32)
    labels = data.batch(places, split).labels
    weights = (places < part.count).astype(jnp.int32)
    zeros = jnp.zeros(federation.num_classes, jnp.int32)
    return zeros.at[labels].add(weights)

  ids = jnp.arange(federation.num_clients, dtype=jnp.int32)
  return np.asarray(jax.jit(lambda: jax.lax.map(count, ids))())


def _figure(
  federation: Federation,
  split: str,
  counts: np.ndarray,
  names: Sequence[str] | None,
) -> Figure:
  from matplotlib.figure import Figure

  clients, classes = counts.shape
  height = np.clip(_CLASS_HEIGHT * classes, _LEAST_HEIGHT, _MOST_HEIGHT)
  few = clients <= _MOST_CLIENTS
  rows = [_SIZES_HEIGHT if classes > 1 else _LEAST_HEIGHT]
  rows += [height] if classes > 1 else []
  figure = Figure((_WIDTH, sum(rows) + 0.7), layout="constrained")
  axes = figure.subplots(
    len(rows), squeeze=False, sharex=few, height_ratios=rows
  )[:, 0]
  figure.suptitle(
    f"{federation.name}: {_TITLES[split]} samples of {clients} clients",
    fontsize=_TEXT,
  )
  if few:
    _bars(axes[0], counts.sum(axis=1), last=classes == 1)
  else:
    _histogram(axes[0], counts.sum(axis=1))
  if classes > 1:
    if few and classes <= _MOST_CLASSES:
      _circles(axes[1], counts, (_WIDTH - 0.6, height))
    else:
      _fields(figure, axes[1], counts, few)
    _name_classes(axes[1], classes, names)
  return figure


def _label(axes: Axes, x: str, y: str) -> None:
  axes.set_xlabel(x, fontsize=_TEXT)
  axes.set_ylabel(y, fontsize=_TEXT)
  axes.tick_params(labelsize=_SMALL, width=_THIN, length=2.5)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_linewidth(_THIN)


def _whole(axis) -> None:
  from matplotlib.ticker import MaxNLocator

  axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def _bars(axes: Axes, sizes: np.ndarray, *, last: bool) -> None:
  """How many samples each client has."""
  axes.bar(np.arange(len(sizes)), sizes, width=0.8, color=_INK)
  _label(axes, "client" if last else "", "samples")
  _whole(axes.xaxis)
  _whole(axes.yaxis)


def _histogram(axes: Axes, sizes: np.ndarray) -> None:
  """How many clients have how many samples."""
  least, most = sizes.min(), sizes.max()
  # Of whole numbers, each bin has as many.
  width = -(-(most - least + 1) // _BINS)
  edges = np.arange(least, most + 1 + width, width) - 0.5
  axes.hist(sizes, bins=edges, color=_INK)
  _label(axes, "samples of a client", "clients")
  _whole(axes.xaxis)
  _whole(axes.yaxis)


def _circles(
  axes: Axes, counts: np.ndarray, room: tuple[float, float]
) -> None:
  """A circle for each client and class."""
  clients, classes = counts.shape
  cell = 72 * min(room[0] / clients, room[1] / classes)  # Points.
  client, label = np.nonzero(counts)
  found = counts[client, label]
  area = (_FILLED * cell) ** 2 * found / max(found.max(initial=0), 1)
  axes.grid(color=_LIGHT, linewidth=_THIN)
  axes.set_axisbelow(True)
  axes.scatter(client, label, s=area, color=_INK, linewidths=0)
  axes.set_xlim(-0.7, clients - 0.3)
  axes.set_ylim(-0.7, classes - 0.3)
  largest = f"largest circle: {found.max(initial=0)} samples"
  _label(axes, f"client ({largest})", "class")
  _whole(axes.xaxis)


def _fields(
  figure: Figure, axes: Axes, counts: np.ndarray, few: bool
) -> None:
  """A field for each client and class, alike clients side by side."""
  from matplotlib.colors import PowerNorm

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
  _label(axes, "client" if few else "clients, by their largest class", "class")
  _whole(axes.xaxis)
  bar = figure.colorbar(image, ax=axes, pad=0.02)
  bar.ax.tick_params(labelsize=_SMALL, width=_THIN, length=2.5)
  bar.set_label("share of the client's samples", fontsize=_SMALL)
  bar.outline.set_linewidth(_THIN)


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


def _save(figure: Figure, path: str | os.PathLike) -> None:
  where = paths.given("path", path)
  kind = where.suffix.removeprefix(".").lower()
  known = sorted(figure.canvas.get_supported_filetypes())
  if kind not in known:
    raise ValueError(
      f"path={os.fspath(path)!r}: must end in one of "
      f"{', '.join('.' + x for x in known)}"
    )
  with paths.replacing(where) as file:
    figure.savefig(file, format=kind, dpi=_DPI)
