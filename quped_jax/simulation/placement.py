"""Samples on the devices: to each, those of its own clients."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from quped_jax.data.federation import SPLITS, Federation, Pool, Split
from quped_jax.simulation.layout import DIVIDED, SAME, Layout


def place(
  federation: Federation,
  layout: Layout,
  groups: Sequence[np.ndarray] | None = None,
) -> tuple[Federation, Any]:
  """Moves a federation to the devices.

  Args:
    federation: in host memory, or on a device.
    layout: says which devices.
    groups: for each device, the ids of the clients whose samples it needs; no
      client is in two, unless these are equal. None: each device gets all
      samples.

  Returns:
    The federation and its specs for `Layout.shard`. With groups, row numbers
    and offsets are those of the client's own device, and clients in no group
    have no samples. A process reads the samples of its own devices only.
  """
  pool = federation.source
  if groups is None or layout.mesh is None or not isinstance(pool, Pool):
    return layout.place(federation, SAME), SAME
  tables = {
    name: [_rows_of(getattr(federation, name), ids) for ids in groups]
    for name in SPLITS
  }
  held = [
    np.unique(np.concatenate([_NOTHING, *map(np.concatenate, tables_of)]))
    for tables_of in zip(*tables.values(), strict=True)
  ]

  def join(parts, like):
    """An array of all devices' parts, from `parts(device)`."""
    return layout.join(
      parts, (_padded_length(held), *like.shape[1:]), like.dtype
    )

  parts: dict[str, Any] = {
    name: _divide(getattr(federation, name), groups, tables[name], held, layout)
    for name in SPLITS
  }
  parts["source"] = Pool(
    join(lambda i: pool.inputs[held[i]], pool.inputs),
    join(lambda i: pool.labels[held[i]], pool.labels),
    layout.place(pool.mean, SAME),
    layout.place(pool.std, SAME),
  )
  placed = dataclasses.replace(
    federation, **parts, public=layout.place(federation.public, SAME)
  )
  specs = jax.tree.map(lambda _: SAME, placed)
  parts = {
    name: dataclasses.replace(getattr(specs, name), rows=DIVIDED)
    for name in SPLITS
  }
  parts["source"] = dataclasses.replace(
    specs.source, inputs=DIVIDED, labels=DIVIDED
  )
  return placed, dataclasses.replace(specs, **parts)


_NOTHING = np.zeros(0, np.int32)


def _rows_of(part: Split, ids: np.ndarray) -> list[np.ndarray]:
  """For each of these clients, the numbers of its rows."""
  rows, begin, count = map(np.asarray, (part.rows, part.offset, part.count))
  return [_NOTHING, *(rows[begin[i] : begin[i] + count[i]] for i in ids)]


def _padded_length(parts: Sequence[np.ndarray]) -> int:
  """A length for all parts: that of the longest or up to an eighth more.

  There are few such lengths, so that other seeds of the same federation run
  the same compiled program. At least one row.
  """
  most = max(1, *map(len, parts))
  step = max(2 ** (most.bit_length() - 4), 1)
  return -(-most // step) * step


def _divide(part: Split, groups, tables, held, layout) -> Split:
  """A split whose row numbers count the samples that each device holds."""
  offset, count = np.zeros_like(part.offset), np.zeros_like(part.count)
  rows = []
  for ids, table, own in zip(groups, tables, held, strict=True):
    sizes = np.array([len(x) for x in table[1:]], np.int32)
    offset[ids] = np.cumsum(sizes) - sizes
    count[ids] = sizes
    found = np.searchsorted(own, np.concatenate(table))
    rows.append(found.astype(np.int32))
  return Split(
    layout.join(lambda i: rows[i], (_padded_length(rows),), np.int32),
    layout.place(offset, SAME),
    layout.place(count, SAME),
    part.max_count,
  )
