"""A whole comparison: runs, then tables and figures."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import rich.console

import quped_jax as qj
from experiments import common
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.comparison import figures, plan, runs, tables
from quped_jax.experiment.comparison.plan import Row, Run


def client_model_bytes(
  settings: qj.Settings, federation: qj.Federation
) -> float:
  """Size of the model that a client would use, mean over the clients.

  It is that of the primary variant, whose accuracy is reported; all but
  "quantized" is of full precision.

  Args:
    settings: of a run.
    federation: data of the shape that the model takes.
  """
  return float(assemble(settings, federation=federation).model_bytes().mean())


def gather(
  all_runs: list[Run],
) -> tuple[dict[Row, dict[int, runs.Finished]], dict[Row, float]]:
  """Results of finished runs by row and seed, and sizes of models by row."""
  federation = build_federation(all_runs[0].settings)
  results, sizes = {}, {}
  for run in all_runs:
    finished = runs.read(run)
    results.setdefault(run.row, {})[run.settings.seed] = finished
    if run.row not in sizes:
      sizes[run.row] = client_model_bytes(run.settings, federation)
  return results, sizes


def compare(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  start: Callable[..., Any] = qj.run,
  console: rich.console.Console | None = None,
) -> list[tables.Record]:
  """Runs what is missing of a comparison, and writes tables and figures.

  Args:
    config: of a comparison, as plain values; see `plan`.
    workdir: for all results.
    start: `(settings, folder, display=..., resume=...)`, runs one.
    console: on which the table is printed.

  Returns:
    The rows of the table.
  """
  console = console or common.make_console()
  planned = plan.make_runs(config, workdir)
  runs.run_missing(planned, start)
  results, sizes = gather(planned)
  records = tables.make_records(results, sizes)
  tables.write(records, workdir)
  paths = figures.write(results, workdir)
  console.print(tables.terminal_table(records))
  console.print(
    f"Tables: {workdir / 'table.csv'}, {workdir / 'table.md'}",
    f"Figures: {', '.join(map(str, paths))}",
    sep="\n",
    highlight=False,
    soft_wrap=True,
  )
  return records
