"""The picture of a partition: which client has how much of what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks, paths
from quped_jax.data import targets
from quped_jax.data.federation import SPLITS, Federation, Pool
from quped_jax.experiment import optional

if TYPE_CHECKING:
  from quped_jax.experiment.figures.style import Figure


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
  optional.need_matplotlib()
  counts = class_counts(federation, split)
  if class_names is not None and len(class_names) != counts.shape[1]:
    raise ValueError(
      f"class_names: must be {counts.shape[1]} names; got {len(class_names)}"
    )
  from quped_jax.experiment.figures import shares

  figure = shares.draw(federation.name, split, counts, class_names)
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


def _save(figure: Figure, path: str | os.PathLike) -> None:
  from quped_jax.experiment.figures import style

  where = paths.given("path", path)
  kind = where.suffix.removeprefix(".").lower()
  known = sorted(figure.canvas.get_supported_filetypes())
  if kind not in known:
    raise ValueError(
      f"path={os.fspath(path)!r}: must end in one of "
      f"{', '.join('.' + x for x in known)}"
    )
  style.write(figure, where, kind)
