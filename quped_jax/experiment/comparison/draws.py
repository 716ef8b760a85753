"""Grids of settings, and balanced draws of their points."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quped_jax import scalars
from quped_jax.experiment.changes import flatten

# Random draws of a row's settings before they are taken along diagonals.
_ATTEMPTS = 50


def grid(field: str, space: Mapping[str, Any]) -> dict[str, Any]:
  """The values of a grid's axes: {"setting" or "method.option": values}.

  Args:
    field: what errors call the space.
    space: {setting: values, or method: {option: values}}.

  Raises:
    ValueError: an axis without values.
  """
  flat = {name: scalars.plain(x) for name, x in flatten(space).items()}
  for setting, values in flat.items():
    if not isinstance(values, (list, tuple)) or not values:
      raise ValueError(
        f"{field}.{setting}={values!r}: must be a tuple of the values to try"
      )
  return flat


def draw(
  field: str, space: Mapping[str, Any], trials: int, name: str
) -> list[dict[str, Any]]:
  """Draws distinct points of a grid, balanced over each setting's values.

  Each value of a setting is in `trials / number of values` points, rounded down
  or up. None is left out unless a setting has more values than there are
  trials.

  Args:
    field: what errors call the space.
    space: {setting: values, or method: {option: values}}.
    trials: number of points.
    name: whose draw it is; another name draws other points.

  Raises:
    ValueError: a grid with fewer points.
  """
  flat = grid(field, space)
  sizes = [len(values) for values in flat.values()]
  if math.prod(sizes) < trials:
    raise ValueError(
      f"{field}: must have at least trials={trials} settings, as many as are "
      f"tried for every method; got {math.prod(sizes)}"
    )
  # The same in every process, unlike `hash`.
  rng = np.random.default_rng(list(name.encode()))
  return [
    {s: values[i] for (s, values), i in zip(flat.items(), point, strict=True)}
    for point in sorted(_balanced_points(sizes, trials, rng))
  ]


def _balanced_points(
  sizes: Sequence[int], trials: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
  """Distinct points of a grid that has axes of these sizes; see `draw`."""
  for _ in range(_ATTEMPTS):
    # On each axis, all of its values in random order, again and again.
    axes = []
    for size in sizes:
      turns = np.tile(np.arange(size), (-(-trials // size), 1))
      axes.append(rng.permuted(turns, axis=1).ravel()[:trials])
    points = list(zip(*(axis.tolist() for axis in axes), strict=True))
    if len(set(points)) == trials:
      return points
  # Hardly any draw has distinct points if it takes most of the grid.
  orders = [rng.permutation(size) for size in sizes]
  return [
    tuple(int(order[i]) for order, i in zip(orders, point, strict=True))
    for point in _diagonal_points(sizes, trials)
  ]


def _diagonal_points(
  sizes: Sequence[int], trials: int
) -> list[tuple[int, ...]]:
  """The first points of a path along a grid's diagonals, through all points.

  Every step goes one further on each axis, from its end to its start. Where the
  path would close, its later axes go one further once more, so that it goes on
  beside itself. It is balanced wherever it is cut.
  """
  times, axes, period = np.arange(trials), [], 1
  for size in sizes:
    # The path over the axes so far is closed after this many steps.
    closed = math.lcm(period, size)
    period *= size
    axes.append((times + times % period // closed) % size)
  return [tuple(int(axis[i]) for axis in axes) for i in range(trials)]
