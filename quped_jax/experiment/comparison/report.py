"""A whole comparison: its runs, and what they came to."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console

from quped_jax import models as models_lib
from quped_jax import paths
from quped_jax.data.federation import Federation
from quped_jax.experiment import blocks, many, optional, output
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.callbacks.base import Callback
from quped_jax.experiment.comparison import (
  plan,
  runs,
  sheet,
  tables,
)
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.comparison.result import Comparison
from quped_jax.experiment.own_functions import NOTHING, OwnFunctions
from quped_jax.experiment.settings import Settings


def client_model_bytes(
  settings: Settings,
  federation: Federation,
  model: models_lib.Model | None = None,
  own: OwnFunctions = NOTHING,
) -> float:
  """Size of the model that a client would use, in bytes, mean over clients.

  This is the size of the primary variant, whose score is reported. All
  variants but "quantized" are of full precision.

  Args:
    settings: of a run.
    federation: data of the shape that the model takes.
    model: the network of all clients, if it was given.
    own: a user's own loss and metrics, likewise.
  """
  made = assemble(settings, federation=federation, model=model, own=own)
  return float(made.model_bytes().mean())


def gather(
  planned: Sequence[Run],
  sources: many.Sources,
  titles: Mapping[str, str],
  workdir: str | os.PathLike,
) -> Comparison:
  """Reads what finished runs left, and computes the sizes of their models.

  Args:
    planned: all runs, seed by seed.
    sources: their data.
    titles: {method: what readers shall call it}.
    workdir: where they are.
  """
  results, sizes, samples = {}, {}, {}
  for run in planned:
    results.setdefault(run.row, {})[run.settings.seed] = runs.read(run)
    federation = sources.federation(run.settings)
    if run.row not in sizes:
      sizes[run.row] = client_model_bytes(
        run.settings, federation, sources.model, sources.own
      )
    count = np.asarray(federation.test.count)[: run.settings.clients]
    samples[run.settings.seed] = count
  same = sources.given is not None
  return Comparison(
    tables.make_records(results, sizes, same_clients=same),
    runs=results,
    titles=titles,
    test_samples=samples,
    same_clients=same,
    folder=paths.given("workdir", workdir),
  )


def carry_out(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  start: Callable[..., Any] | None = None,
  *,
  sources: many.Sources | None = None,
  **how: Any,
) -> Comparison:
  """Runs what is missing of a comparison, and gathers what all came to.

  Args:
    config: the comparison's config, as plain values; see `plan`.
    workdir: where the results of the runs go.
    start: `start(settings, folder, display=..., resume=...)` runs one; by
      default, by programs that it shares with others.
    sources: the data of the runs, and what else they are given.
    **how: see `runs.run_missing`.

  Raises:
    ValueError: anything in the config that is not allowed, or a workdir with
      results of other runs, before a run starts.
  """
  sources = sources or many.Sources()
  planned = plan.make_runs(config, paths.given("workdir", workdir))
  titles = plan.titles_of(config)
  runs.run_missing(planned, start, sources=sources, **how)
  return gather(planned, sources, titles, workdir)


def compare(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  start: Callable[..., Any] | None = None,
  console: rich.console.Console | None = None,
  *,
  restart: bool = False,
  quiet: bool = False,
  callbacks: Callable[[Run], Sequence[Callback]] | None = None,
) -> Comparison:
  """Runs what is missing of a comparison, and writes its table and figures.

  Args:
    config: the comparison's config, as plain values; see `plan`.
    workdir: where all results go.
    start: see `carry_out`.
    console: where the table is printed; the standard output by default.
    restart: whether results of other runs in the workdir may be replaced.
    quiet: whether only the table is shown, and no progress.
    callbacks: see `runs.run_missing`.

  Raises:
    ValueError: see `carry_out`.
  """
  console = output.forgive(console)
  found = carry_out(
    config,
    workdir,
    start,
    say=output.nothing if quiet else output.say,
    quiet=quiet,
    restart=restart,
    callbacks=callbacks,
  )
  written = found.save(workdir)
  table = tables.sheet(found.rows)
  blocks.print_table(console, sheet.terminal(table), keep=table.names)
  by_name: dict[str, list[pathlib.Path]] = {}
  for path in written:
    by_name.setdefault(path.stem, []).append(path)
  for first, *others in by_name.values():
    also = ", ".join(path.suffix for path in others)
    console.print(f"{first}, {also}", highlight=False, soft_wrap=True)
  if len(by_name) == 1:
    console.print(optional.ABOUT_FIGURES, highlight=False, markup=False)
  return found
