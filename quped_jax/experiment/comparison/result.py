"""What a comparison came to: its table, its figures, and every run of it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from quped_jax import checks, paths
from quped_jax.experiment import optional
from quped_jax.experiment.comparison import plan, sheet, tables
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.comparison.runs import Finished
from quped_jax.experiment.comparison.statistics import (
  Difference,
  paired_difference,
)
from quped_jax.quantization import codebook

if TYPE_CHECKING:
  from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
  """Methods side by side, as `compare` leaves them.

  At the end of a notebook's cell it shows its table.

  Attributes:
    rows: a record per row of the table, numbers not rounded and not in percent,
      what `table.csv` holds. Each has its difference to the first.
    runs: {(method, bits): {seed: what the run came to}}; bits are a tuple. A
      run has a `summary`, a `history` and `scores`, one per client.
    titles: {method: what figures and LaTeX call it}, of those that are called
      so by the user.
    test_samples: {seed: test samples of each client, int `[clients]`}.
    same_clients: whether all seeds have the same clients, see
      `paired_difference`.
    folder: where the results of the runs are; None for nowhere.

  Examples:
    >>> settings = qj.Settings(clients=4, rounds=1, steps=2)
    >>> found = qj.compare(
    ...   ["local", "fedavg"], [32], seeds=[0], settings=settings, quiet=True
    ... )
    >>> found.run("fedavg", seed=0).summary["rounds"]
    1
    >>> found.to_markdown(["accuracy", "bytes"]).splitlines()[0]
    '| method | bits | accuracy | KB sent |'
  """

  rows: list[tables.Record]
  runs: Mapping[Row, Mapping[int, Finished]]
  titles: Mapping[str, str]
  test_samples: Mapping[int, np.ndarray]
  same_clients: bool
  folder: pathlib.Path | None

  def run(
    self, method: str, bits: Any = None, seed: int | None = None
  ) -> Finished:
    """What a single run came to.

    Args:
      method: its name.
      bits: its precision; not needed for a method with one row.
      seed: of the run; the first by default.

    Returns:
      A tuple with the run's `summary`, what `summary.json` holds; `scores`, of
      the primary variant on test data, float `[clients]`; and `history`, a
      record per evaluated round.

    Raises:
      ValueError: there is no such run, or several.
    """
    found = self.runs[self._row(method, bits)]
    seed = next(iter(found)) if seed is None else seed
    if seed not in found:
      raise ValueError(
        f"seed={seed}: must be one of {', '.join(map(str, found))}"
      )
    return found[seed]

  def difference(
    self, own: str | tuple[str, Any], other: str | tuple[str, Any]
  ) -> Difference:
    """The paired difference in score of any two rows, with its interval.

    Args:
      own: a method, or (method, bits) if it has several rows.
      other: likewise.

    Returns:
      Its mean, own minus other, and the ends `low` and `high` of its 95 %
      interval; these are None with one seed.

    Raises:
      ValueError: there is no such row, or several.
    """
    rows = [
      self._row(*((name,) if isinstance(name, str) else name))
      for name in (own, other)
    ]
    first, second = (
      {seed: run.scores for seed, run in self.runs[row].items()} for row in rows
    )
    return paired_difference(first, second, same_clients=self.same_clients)

  def _row(self, method: str, bits: Any = None) -> Row:
    rows = [row for row in self.runs if row.method == method]
    if not rows:
      there = dict.fromkeys(row.method for row in self.runs)
      raise ValueError(f"method={method!r}: must be one of {', '.join(there)}")
    if bits is None and len(rows) == 1:
      return rows[0]
    shown = ", ".join(str(list(row.bits)) for row in rows)
    if bits is None:
      raise ValueError(
        f"bits=None: must be given for {method!r}, which has {shown}"
      )
    (wanted,) = plan.parse_bits("bits", [bits])
    if Row(method, wanted) not in rows:
      raise ValueError(
        f"bits={bits!r}: must be a precision of {method!r}, which has {shown}"
      )
    return Row(method, wanted)

  def table(
    self, columns: Iterable[str] | None = None, width: int | None = None
  ) -> str:
    """The table as plain text.

    Args:
      columns: fields of `rows` to show, in order; by default all that are not
        empty.
      width: of the lines, in characters; that of the terminal by default.

    Raises:
      ValueError: a field that has no column.
    """
    return sheet.plain(tables.sheet(self.rows, columns), width)

  def to_markdown(self, columns: Iterable[str] | None = None) -> str:
    """The table in Markdown; see `table`."""
    return sheet.markdown(tables.sheet(self.rows, columns))

  def to_latex(self, columns: Iterable[str] | None = None) -> str:
    r"""The table in LaTeX: a `tabular`, which needs the package booktabs.

    Methods have the names that a reader knows, the best of each column is bold,
    and what the columns are is said in comments. Save it and `\input` it into a
    `table` with a caption of your own.

    Args:
      columns: see `table`.

    Raises:
      ValueError: a field that has no column.
    """
    return sheet.latex(tables.sheet(self.rows, columns, self._title))

  def to_dataframe(self) -> Any:
    """The rows as a pandas data frame.

    Raises:
      ImportError: pandas is not installed.
    """
    return optional.data_frame(self.rows)

  def plot(self, kind: str = "rounds") -> Figure:
    """One of the figures.

    Args:
      kind: "rounds" for the score over the rounds, "bytes" for the score over
        the bytes that were sent, "clients" for the scores of all clients.

    Raises:
      ValueError: another kind.
      ImportError: matplotlib is not installed.
    """
    figures = _figures()
    checks.choice("kind", kind, list(figures.KINDS))
    return figures.KINDS[kind](self._shown(figures))

  def save(self, folder: str | os.PathLike) -> list[pathlib.Path]:
    """Writes the table and the figures.

    They are `table.csv`, whose numbers are not rounded, `table.md` and
    `table.tex`; and the score over rounds, over bytes and of all clients, each
    as PNG, SVG and PDF. Without matplotlib there are no figures.

    Args:
      folder: made if it does not exist.

    Returns:
      The paths of all files.

    Raises:
      OSError: they cannot be written.
    """
    folder = paths.given("folder", folder)
    written = sheet.write(self, folder, "table")
    try:
      figures = _figures()
    except ImportError:
      return written
    return written + figures.write(self._shown(figures), folder)

  def nowhere(self) -> Comparison:
    """The same, whose runs have no folder."""
    return dataclasses.replace(self, folder=None)

  def _title(self, method: str) -> str:
    return plan.title_of(method, self.titles)

  def _shown(self, figures):
    names = {
      row: f"{self._title(row.method)}, {codebook.describe_bits(row.bits)}"
      for row in self.runs
    }
    return figures.Shown(self.runs, names, self.test_samples)

  def __repr__(self) -> str:
    return self.table()

  def _repr_html_(self) -> str:
    return sheet.to_html(tables.sheet(self.rows))


def _figures():
  """The module that draws; whoever draws nothing needs no matplotlib."""
  optional.need_matplotlib()
  from quped_jax.experiment.comparison import figures

  return figures
