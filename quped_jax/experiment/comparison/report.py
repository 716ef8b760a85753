"""A whole comparison: its runs, then its table and its figures."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import rich.console

from quped_jax import paths
from quped_jax.data.federation import Federation
from quped_jax.experiment import blocks, output
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.callbacks.base import Callback
from quped_jax.experiment.comparison import figures, plan, runs, tables
from quped_jax.experiment.comparison.plan import Row, Run
from quped_jax.experiment.settings import Settings


class Gathered(NamedTuple):
  """What the runs of a comparison left.

  Attributes:
    results: {row: {seed: its finished run}}.
    sizes: {row: bytes of a client's model, mean over the clients}.
  """

  results: dict[Row, dict[int, runs.Finished]]
  sizes: dict[Row, float]


def client_model_bytes(settings: Settings, federation: Federation) -> float:
  """Size of the model that a client would use, in bytes, mean over clients.

  This is the size of the primary variant, whose score is reported. All
  variants but "quantized" are of full precision.

  Args:
    settings: of a run.
    federation: data of the shape that the model takes.
  """
  return float(assemble(settings, federation=federation).model_bytes().mean())


def gather(planned: Sequence[Run]) -> Gathered:
  """Reads what finished runs left, and computes the sizes of their models."""
  federation = build_federation(planned[0].settings)
  results, sizes = {}, {}
  for run in planned:
    results.setdefault(run.row, {})[run.settings.seed] = runs.read(run)
    if run.row not in sizes:
      sizes[run.row] = client_model_bytes(run.settings, federation)
  return Gathered(results, sizes)


def compare(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  start: Callable[..., Any] | None = None,
  console: rich.console.Console | None = None,
  *,
  restart: bool = False,
  quiet: bool = False,
  callbacks: Callable[[Run], Sequence[Callback]] | None = None,
) -> list[tables.Record]:
  """Runs what is missing of a comparison, and writes its table and figures.

  Args:
    config: the comparison's config, as plain values; see `plan`.
    workdir: where all results go.
    start: `start(settings, folder, display=..., resume=...)` runs one; by
      default, by programs that it shares with others.
    console: where the table is printed; the standard output by default.
    restart: whether results of other runs in the workdir may be replaced.
    quiet: whether only the table is shown, and no progress.
    callbacks: see `runs.run_missing`.

  Returns:
    The rows of the table.

  Raises:
    ValueError: anything in the config that is not allowed, or a workdir with
      results of other runs, before a run starts.
  """
  console, folder = output.forgive(console), paths.given("workdir", workdir)
  planned = plan.make_runs(config, folder)
  runs.run_missing(
    planned,
    start,
    output.nothing if quiet else output.say,
    quiet=quiet,
    restart=restart,
    callbacks=callbacks,
  )
  gathered = gather(planned)
  records = tables.make_records(*gathered)
  tables.write(records, folder)
  drawn = figures.write(gathered.results, folder)
  # Method and bits name a row.
  blocks.print_table(console, tables.terminal_table(records), keep=2)
  console.print(
    f"Tables: {folder / 'table.csv'}, {folder / 'table.md'}",
    f"Figures: {', '.join(map(str, drawn))}",
    sep="\n",
    highlight=False,
    soft_wrap=True,
  )
  return records
