"""Comparisons made of what was kept, of all cells that are there."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.paper.catalog import Part, Table
from experiments.paper.records import Key, Record, Store
from quped_jax.experiment.comparison import plan, tables
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.result import Comparison


class Found(NamedTuple):
  """What is known of a part of a table.

  Attributes:
    part: the part.
    seeds: those from which all rows were run that were run at all.
    comparison: the rows that were run from these seeds; None if none was.
    records: {row: {seed: its record}} of these.
    diverged: rows of which a run diverged.
    missing: rows that were not run.
  """

  part: Part
  seeds: tuple[int, ...]
  comparison: Comparison | None
  records: dict[Row, dict[int, Record]]
  diverged: list[Row]
  missing: list[Row]

  def title(self, row: Row) -> str:
    """What readers call the method of a row."""
    return plan.title_of(row.method, plan.titles_of(self.part.config))

  def reference(self, row: Row) -> Row | None:
    """The row that a row is compared with; None if that was not run.

    It is that of the first method at the same precision, or, where there is
    none, the first row.
    """
    first = self.part.rows[0]
    same = first._replace(bits=row.bits)
    other = same if same in self.part.rows else first
    return other if other in self.records else None


def find(table: Table, part: Part, store: Store) -> Found:
  """What is known of a part of a table, without running anything.

  Args:
    table: the table.
    part: one of its parts.
    store: what was kept.
  """

  def record(row: Row, seed: int) -> Record | None:
    return store.runs.get(Key(part.name, row, seed))

  first = table.seeds[0]
  begun = [row for row in part.rows if record(row, first) is not None]
  seeds = tuple(
    seed
    for seed in table.seeds
    if all(record(row, seed) is not None for row in begun)
  )
  known, diverged = {}, []
  for row in begun:
    own = {seed: found for seed in seeds if (found := record(row, seed))}
    if all(found.finished for found in own.values()):
      known[row] = own
    else:
      diverged.append(row)
  missing = [row for row in part.rows if row not in begun]
  comparison = _comparison(part, known, store.folder) if known else None
  return Found(part, seeds, comparison, known, diverged, missing)


def _comparison(
  part: Part, known: dict[Row, dict[int, Record]], folder: pathlib.Path
) -> Comparison:
  results = {
    row: {seed: x.finished for seed, x in own.items() if x.finished}
    for row, own in known.items()
  }
  first = next(iter(known.values()))
  sizes = {
    row: next(iter(own.values())).model_bytes for row, own in known.items()
  }
  return Comparison(
    tables.make_records(results, sizes),
    runs=results,
    titles=plan.titles_of(part.config),
    test_samples={seed: np.array(x.test_samples) for seed, x in first.items()},
    same_clients=False,
    folder=folder,
  )
