"""Federations of one shape: tables of row numbers, padded to the largest.

Federations of the same samples, divided over clients in different ways, differ
in the shapes of their tables and in the largest number of samples that a client
has. Padded alike, all go through one compiled program. No batch changes: which
samples a client draws follows from its own number of samples alone.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax.data.federation import SPLITS, Federation, Split


class Lengths(NamedTuple):
  """What the tables of several federations have room for.

  Attributes:
    rows: {split: length of its table of row numbers}.
    most: {split: the largest number of samples of a client}.
  """

  rows: dict[str, int]
  most: dict[str, int]


def lengths_of(federations: Iterable[Federation]) -> Lengths:
  """The lengths of the longest tables."""
  rows, most = ({name: 0 for name in SPLITS} for _ in range(2))
  for federation in federations:
    for name in SPLITS:
      part: Split = getattr(federation, name)
      table = 0 if part.rows is None else len(part.rows)
      rows[name] = max(rows[name], table)
      most[name] = max(most[name], part.max_count)
  return Lengths(rows, most)


def padded(federation: Federation, lengths: Lengths) -> Federation:
  """The federation with tables of these lengths, in host memory.

  Args:
    federation: whose tables stay as they are where they are longer.
    lengths: of all federations that are to have the same shape.
  """
  parts = {}
  for name in SPLITS:
    part: Split = getattr(federation, name)
    rows = part.rows
    if rows is not None and len(rows) < lengths.rows[name]:
      rows = np.pad(np.asarray(rows), (0, lengths.rows[name] - len(rows)))
    most = max(lengths.most[name], part.max_count)
    parts[name] = dataclasses.replace(part, rows=rows, max_count=most)
  return dataclasses.replace(federation, **parts)


def shape_of(federation: Federation) -> Any:
  """What must be equal for federations to have one shape when padded.

  A hashable value: the structure, and the shapes and types of all arrays, but
  for lengths of tables. A split in which no client has samples is another
  structure: nobody is evaluated on it.
  """
  parts = {}
  for name in SPLITS:
    part: Split = getattr(federation, name)
    rows = None if part.rows is None else np.zeros(0, np.int32)
    parts[name] = dataclasses.replace(
      part, rows=rows, max_count=min(part.max_count, 1)
    )
  bare = dataclasses.replace(federation, **parts)
  leaves, structure = jax.tree.flatten(bare)
  shapes = [(np.shape(x), np.asarray(x).dtype.name) for x in leaves]
  return structure, tuple(shapes)
