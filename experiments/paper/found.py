"""Comparisons made of what was kept, of all cells that are there."""

import pathlib
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.paper.catalog import Part, Table
from experiments.paper.records import Key, Record, Store
from quped_jax.experiment.comparison import plan, tables
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.result import Comparison
from quped_jax.experiment.comparison.statistics import Difference


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

  def apart(
    self, own: Row, other: Row, client_type: str | None = None
  ) -> np.ndarray:
    """How far two rows are apart: a difference of mean scores for each seed.

    Args:
      own: a row that was run.
      other: another one, which is taken off.
      client_type: of which the clients count; None for all clients.

    Returns:
      `[seeds]`.
    """

    def mean(record: Record) -> float:
      scores = record.results.scores
      if client_type is not None:
        scores = scores[np.array(record.client_types) == client_type]
      return float(np.nanmean(scores))

    return np.array(
      [
        mean(self.records[own][seed]) - mean(self.records[other][seed])
        for seed in self.seeds
      ]
    )

  def difference(
    self, own: Row, other: Row, client_type: str | None = None
  ) -> Difference:
    """The mean of what `apart` gives, with its 95 % interval over seeds."""
    return over_seeds(self.apart(own, other, client_type))


def over_seeds(apart: np.ndarray) -> Difference:
  """The mean of differences and its 95 % t interval; None of one seed.

  Few seeds give wide intervals: 4.3 standard errors to either side for three
  seeds, 2.8 for five. A bootstrap over so few would be too narrow.

  Args:
    apart: `[seeds]`.
  """
  mean, count = float(np.mean(apart)), len(apart)
  if count == 1:
    return Difference(mean, None, None)
  half = stats.t.ppf(0.975, count - 1) * np.std(apart, ddof=1) / np.sqrt(count)
  return Difference(mean, float(mean - half), float(mean + half))


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
