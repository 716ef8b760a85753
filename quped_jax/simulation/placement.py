"""Samples on the devices: to each, those of its own clients."""

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax.data.federation import SPLITS, Federation, Pool, Split
from quped_jax.simulation.layout import DIVIDED, SAME, Layout


class Room(NamedTuple):
  """What a device has room for, where each has samples of its own clients.

  Attributes:
    samples: how many.
    rows: {split: length of its table of row numbers}.
  """

  samples: int
  rows: dict[str, int]


def room_of(
  federations: Iterable[Federation],
  layout: Layout,
  groups: Sequence[np.ndarray] | None,
) -> Room | None:
  """What devices need for each of several federations; None for all samples.

  Args:
    federations: of the same clients.
    layout: see `place`.
    groups: likewise.
  """
  samples, rows = 1, {name: 1 for name in SPLITS}
  for federation in federations:
    if not _is_divided(federation, layout, groups):
      return None
    assert groups is not None
    tables = _tables(federation, groups)
    samples = max(samples, *map(len, _held(tables)))
    for name, table in tables.items():
      longest = max(sum(map(len, own)) for own in table)
      rows[name] = max(rows[name], longest)
  return Room(
    _padded_length(samples), {k: _padded_length(n) for k, n in rows.items()}
  )


def place(
  federation: Federation,
  layout: Layout,
  groups: Sequence[np.ndarray] | None = None,
  room: Room | None = None,
) -> tuple[Federation, Any]:
  """Moves a federation to the devices.

  Args:
    federation: in host memory, or on a device.
    layout: says which devices.
    groups: for each device, the ids of the clients whose samples it needs; no
      client is in two, unless these are equal. None: each device gets all
      samples.
    room: what devices have room for, so that other federations fit too; by
      default for this one.

  Returns:
    The federation and its specs for `Layout.shard`. With groups, row numbers
    and offsets are those of the client's own device, and clients in no group
    have no samples. A process reads the samples of its own devices only.
  """
  pool = federation.source
  room = room or room_of([federation], layout, groups)
  if room is None:
    return layout.place(federation, SAME), SAME
  assert groups is not None
  tables = _tables(federation, groups)
  held, samples = _held(tables), room.samples

  def join(parts, like):
    """An array of all devices' parts, from `parts(device)`."""
    return layout.join(parts, (samples, *like.shape[1:]), like.dtype)

  parts: dict[str, Any] = {
    name: _divide(
      getattr(federation, name), groups, table, held, layout, room.rows[name]
    )
    for name, table in tables.items()
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


class Places:
  """Where programs find their data, which may be that of several runs in turn.

  A pool of samples that every device holds whole is there once, for all
  federations that share it and are there at the same time.

  Args:
    federations: those that the programs are to serve.
    layout: see `place`.
    groups: likewise.
  """

  def __init__(
    self,
    federations: Iterable[Federation],
    layout: Layout,
    groups: Sequence[np.ndarray] | None,
  ):
    self._layout, self._groups = layout, groups
    self._room = room_of(federations, layout, groups)
    # Samples in host memory, and as long as a run needs them, on the devices.
    self._pool: tuple[Any, Callable[[], Any]] = None, lambda: None

  def place(
    self, federation: Federation, population: Any
  ) -> tuple[tuple[Federation, Any], Any]:
    """Moves one run's data to the devices: (data, specs).

    Args:
      federation: one of the federations.
      population: what its clients bring.
    """
    source = federation.source
    shared = isinstance(source, Pool) and self._room is None
    inputs = self._pool[1]() if shared else None
    if inputs is not None and source.inputs is self._pool[0]:
      same = dataclasses.replace(source, inputs=inputs)
      federation = dataclasses.replace(federation, source=same)
    placed, specs = place(federation, self._layout, self._groups, self._room)
    if shared:
      self._pool = source.inputs, weakref.ref(placed.source.inputs)
    return (placed, self._layout.place(population, SAME)), (specs, SAME)


_NOTHING = np.zeros(0, np.int32)


def _is_divided(federation, layout, groups) -> bool:
  """Whether each device gets the samples of its own clients."""
  pooled = isinstance(federation.source, Pool)
  return groups is not None and layout.mesh is not None and pooled


# Of each split, for each device, the rows of each of its clients.
_Tables = dict[str, list[list[np.ndarray]]]


def _tables(federation: Federation, groups: Sequence[np.ndarray]) -> _Tables:
  return {
    name: [_rows_of(getattr(federation, name), ids) for ids in groups]
    for name in SPLITS
  }


def _held(tables: _Tables) -> list[np.ndarray]:
  """For each device, the rows of the pool that it needs, in order."""
  return [
    np.unique(np.concatenate([_NOTHING, *map(np.concatenate, tables_of)]))
    for tables_of in zip(*tables.values(), strict=True)
  ]


def _rows_of(part: Split, ids: np.ndarray) -> list[np.ndarray]:
  """For each of these clients, the numbers of its rows."""
  rows, begin, count = map(np.asarray, (part.rows, part.offset, part.count))
  return [_NOTHING, *(rows[begin[i] : begin[i] + count[i]] for i in ids)]


def _padded_length(most: int) -> int:
  """A length for the longest part: its own or up to an eighth more.

  There are few such lengths, so that other seeds of the same federation run
  the same compiled program.
  """
  step = max(2 ** (most.bit_length() - 4), 1)
  return -(-most // step) * step


def _divide(part: Split, groups, tables, held, layout, length) -> Split:
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
    layout.join(lambda i: rows[i], (length,), np.int32),
    layout.place(offset, SAME),
    layout.place(count, SAME),
    part.max_count,
  )
