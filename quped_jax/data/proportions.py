"""Whole samples in proportion: of each class the same share."""

from __future__ import annotations

import numpy as np


def split_by_class(
  rows: np.ndarray,
  labels: np.ndarray,
  fraction: float,
  at_least: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Splits rows in two, each class in the same proportion.

  Args:
    rows: `[rows]` row numbers.
    labels: `[samples]` of the whole dataset.
    fraction: Fraction of the rows that the first part gets, before rounding.
    at_least: Fewest rows that the second part gets, if that leaves one for the
      first.
    rng: Chooses the rows.

  Returns:
    The two parts, sorted.
  """
  size = max(1, min(round(fraction * len(rows)), len(rows) - at_least))
  if size >= len(rows):
    return rows, rows[:0]
  _, class_of_row, counts = np.unique(
    labels[rows], return_inverse=True, return_counts=True
  )
  taken = apportion(size, counts, rng)
  by_class = np.lexsort((rng.random(len(rows)), class_of_row))
  starts = np.cumsum(counts) - counts
  place_in_class = np.arange(len(rows)) - np.repeat(starts, counts)
  is_first = np.empty(len(rows), bool)
  is_first[by_class] = place_in_class < np.repeat(taken, counts)
  return rows[is_first], rows[~is_first]


def apportion(
  total: int, weights: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Divides `total` in proportion to integer weights, by largest remainders."""
  shares, remainders = np.divmod(
    total * weights.astype(np.int64), weights.sum()
  )
  most_wanting = np.lexsort((rng.random(len(weights)), -remainders))
  shares[most_wanting[: total - shares.sum()]] += 1
  return shares
