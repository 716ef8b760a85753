"""Runs what is missing of a table, the most informative cells first.

All rows of the first seed come first, in the order of the config, then those of
the next. A row is tuned just before its first run. A run or a tuning that
another row or another table of the device has, of the same settings, is taken.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import quped_jax as qj
from experiments.paper import records, tuning
from experiments.paper.catalog import Part, Table
from experiments.paper.records import Key, Store
from quped_jax.experiment import many, output
from quped_jax.experiment.comparison import plan, report, tune
from quped_jax.experiment.comparison import runs as runs_lib
from quped_jax.experiment.comparison.plan import Row, Run
from quped_jax.experiment.settings import Settings

# What rows have chosen for them that are not tuned.
_UNTUNED: dict[str, Any] = {}


class Cell(NamedTuple):
  """A run of a table.

  Attributes:
    part: the comparison that it belongs to.
    row: of the part.
    seed: of the run.
  """

  part: Part
  row: Row
  seed: int

  @property
  def key(self) -> Key:
    """By which its record is known."""
    return Key(self.part.name, self.row, self.seed)

  @property
  def title(self) -> str:
    """As people read it."""
    part = f"{self.part.name}: " if self.part.name else ""
    return f"{part}{self.row.title}, seed {self.seed}"


def cells(table: Table) -> list[Cell]:
  """All runs of a table, in the order in which to run them."""
  return [
    Cell(part, row, seed)
    for seed in table.seeds
    for part in table.parts
    for row in part.rows
  ]


def tuned_name(part: Part, row: Row) -> str:
  """By which a store knows what was chosen for a row."""
  return f"{part.name}/{row.name}" if part.name else row.name


def chosen_for(
  part: Part, row: Row, store: Store
) -> tuple[str, dict[str, Any] | None]:
  """The settings that were chosen for a row, or for the one it shares with.

  Args:
    part: the comparison.
    row: one of its rows.
    store: what was kept.

  Returns:
    A digest of what they were to be chosen from, "" if the row is not tuned;
    and the settings, None if they were not chosen yet, or not from that.
  """
  if not part.is_tuned(row):
    return "", _UNTUNED
  shared = part.shared(row)
  seed = plan.parse_seeds("tune.seeds", part.config["tune"]["seeds"])[0]
  config = tuning.with_chosen(part.config, shared, {})
  given = plan.row_settings(config, shared, seed)
  section = dict(part.config["tune"])
  section["spaces"] = tune.space_of(section, shared.method)
  own = records.digest([records.digest(given), section])
  known = store.tuned.get(tuned_name(part, shared))
  if known is None or known["settings"] != own:
    return own, None
  return own, known["chosen"]


def settings_of(cell: Cell, chosen: Mapping[str, Any]) -> Settings:
  """The settings of a cell.

  Args:
    cell: of a table.
    chosen: for its row, see `chosen_for`.
  """
  config = tuning.with_chosen(cell.part.config, cell.row, chosen)
  return plan.row_settings(config, cell.row, cell.seed)


def digest_of(cell: Cell, store: Store) -> str | None:
  """Of the settings that a cell's results follow from, as a record has it.

  Args:
    cell: of a table.
    store: what was kept; None comes of settings that are not chosen yet.
  """
  _, chosen = chosen_for(cell.part, cell.row, store)
  if chosen is None:
    return None
  own, warm = (
    records.digest(settings_of(cell, chosen)),
    cell.part.warm(cell.row),
  )
  if warm is None:
    return own
  return records.digest([own, digest_of(cell._replace(row=warm), store)])


def of_former_settings(table: Table, store: Store) -> int:
  """How many kept runs a table would make anew, as its config has changed."""
  known = {cell.key: cell for cell in cells(table)}
  return sum(
    key not in known or record.settings != digest_of(known[key], store)
    for key, record in store.runs.items()
  )


class OutOfTimeError(Exception):
  """The time that was given is over; what is done is kept."""


@contextlib.contextmanager
def within(minutes: float) -> Iterator[None]:
  """Ends what is done inside in time, as Ctrl-C would.

  Args:
    minutes: that it may take; 0 for as many as it takes.

  Raises:
    OutOfTimeError: the time is over.
  """
  over = threading.Event()

  def end() -> None:
    over.set()
    os.kill(os.getpid(), signal.SIGINT)

  timer = threading.Timer(60 * minutes, end)
  timer.daemon = True
  before = signal.getsignal(signal.SIGINT)
  if minutes:
    # What a script starts in the background ignores Ctrl-C, and would not end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
  try:
    yield
  except KeyboardInterrupt as error:
    if over.is_set():
      raise OutOfTimeError from error
    raise
  finally:
    timer.cancel()
    signal.signal(signal.SIGINT, before)


def carry_out(
  table: Table,
  store: Store,
  workdir: pathlib.Path,
  say: Callable[[str], None] = output.say,
) -> None:
  """Runs what is missing of a table; the same call goes on after an end.

  Args:
    table: the table.
    store: keeps what is found.
    workdir: where runs that are under way have their files.
    say: prints a line.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  worker = _Worker(table, store, workdir, say)
  everything = cells(table)
  for number, cell in enumerate(everything, 1):
    worker.do(cell, f"[{number}/{len(everything)}]")


class _Worker:
  """Does the cells of a table, one after the other."""

  def __init__(
    self,
    table: Table,
    store: Store,
    workdir: pathlib.Path,
    say: Callable[[str], None],
  ):
    self._table, self._store, self._workdir = table, store, workdir
    self._say, self._sources = say, many.Sources()

  def do(self, cell: Cell, label: str) -> None:
    """Runs a cell, unless it is done."""
    settings = self._settings(cell)
    digest = self._digest(cell)
    known = self._store.runs.get(cell.key)
    if known is not None and known.settings == digest:
      return
    began = time.perf_counter()
    self._say(f"{label} {cell.title}")
    record = self._store.run_like(digest)
    took = "as it was run before"
    if record is None:
      warm = cell.part.warm(cell.row)
      if warm is not None:
        path = self._weights(cell._replace(row=warm))
        settings = dataclasses.replace(settings, warm_start=str(path))
      run = self._run(cell, settings)
      record = self._record(run)._replace(settings=digest)
      took = f"{time.perf_counter() - began:.0f} s"
    self._store.add(cell.key, record)
    found = "diverged"
    if record.finished is not None:
      score = float(np.nanmean(record.finished.scores))
      found = f"{100 * score:.1f}"
    self._say(f"{label} {cell.title}: {found}, {took}")

  def _settings(self, cell: Cell) -> Settings:
    """Those of a cell, with what was chosen for its row."""
    return settings_of(cell, self._chosen(cell.part, cell.row))

  def _digest(self, cell: Cell) -> str:
    """Of the settings that its results follow from, which are chosen first."""
    warm = cell.part.warm(cell.row)
    for row in (cell.row, warm):
      if row is not None:
        self._chosen(cell.part, row)
    found = digest_of(cell, self._store)
    assert found is not None
    return found

  def _run(self, cell: Cell, settings: Settings) -> Run:
    folder = self._workdir / cell.part.name / "runs"
    run = Run(
      cell.row,
      settings,
      folder / f"{cell.row.name}_seed{cell.seed}",
      cell.title,
    )
    runs_lib.run_missing(
      [run],
      say=output.nothing,
      quiet=True,
      restart=True,  # What is there may be of other settings.
      may_diverge=True,
      sources=self._sources,
    )
    return run

  def _weights(self, cell: Cell) -> pathlib.Path:
    """A file of the weights to which a cell comes, which is run if need be."""
    run = self._run(cell, self._settings(cell))
    packed = qj.load_packed(run.folder / "models" / "client_00000.safetensors")
    path = run.folder / "weights.safetensors"
    qj.save_weights(path, packed.params, packed.stats)
    return path

  def _record(self, run: Run) -> records.Record:
    found = runs_lib.read(run) if runs_lib.is_finished(run) else None
    parts = self._sources.plan(run.settings).parts
    federation, clients = parts.federation, run.settings.clients
    return records.of_run(
      run.settings,
      found,
      np.asarray(federation.test.count)[:clients],
      parts.clients.assignment.labels()[:clients],
      report.client_model_bytes(run.settings, federation),
    )

  def _chosen(self, part: Part, row: Row) -> dict[str, Any]:
    """The settings that are chosen for a row, now or before."""
    digest, chosen = chosen_for(part, row, self._store)
    if chosen is None:
      chosen = self._tune(part, part.shared(row), digest)
    return chosen

  def _tune(self, part: Part, row: Row, settings: str) -> dict[str, Any]:
    name = tuned_name(part, row)
    known = self._store.tuned_like(settings)
    if known is None:
      known = self._try(name, part, row, settings)
    self._store.add_tuned(name, known)
    self._say(f"tuned {name}: {known['chosen'] or 'all diverged'}")
    return self._store.tuned[name]["chosen"]

  def _try(
    self, name: str, part: Part, row: Row, settings: str
  ) -> dict[str, Any]:
    budget = tuning.budget(part, row, self._sources)
    self._say(
      f"tuning {name}: {budget.trials} of {budget.points} settings, "
      f"{budget.gradients:,.0f} gradients of a client"
    )
    folder = self._workdir / part.name / "tuned" / row.name
    chosen, tried = tuning.choose(part, row, budget.trials, folder, quiet=True)
    return {
      "settings": settings,
      "space": tune.space_of(part.config["tune"], row.method),
      "gradients": budget.gradients,
      "seconds": sum(trial["seconds"] for trial in tried),
      "chosen": chosen,
      "tried": tried,
    }
