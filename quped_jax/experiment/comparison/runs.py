"""Runs what is missing of a list of runs, and reads what they left."""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quped_jax.experiment import former_names
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.metrics import Display
from quped_jax.experiment.run import run as run_experiment


class Finished(NamedTuple):
  """What a run left in its folder.

  Attributes:
    summary: the content of `summary.json`.
    accuracy: of the primary variant on test data, a fraction, float
      `[clients]`; NaN for a client without test samples.
    history: a record per evaluated round.
  """

  summary: dict[str, Any]
  accuracy: np.ndarray
  history: list[dict[str, Any]]


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
  """A run's config without the options of the methods that it does not run.

  A finished run is recognized even if the library got a new method since.
  """
  method = values["method"]
  plain = json.loads(json.dumps(values))
  return {
    name: value
    for name, value in plain.items()
    if name == method or not isinstance(value, dict)
  }


def is_done(run: Run) -> bool:
  """Whether a run's folder holds the results of exactly its settings."""
  return (run.folder / "summary.json").is_file() and _is_begun(run)


def _is_begun(run: Run) -> bool:
  """Whether a run's folder belongs to a run of exactly its settings."""
  if not (run.folder / "config.json").is_file():
    return False
  recorded = former_names.renamed(
    json.loads((run.folder / "config.json").read_text()), former_names.SETTINGS
  )
  return _comparable(recorded) == _comparable(run.settings.to_dict())


def check(runs: Sequence[Run]) -> None:
  """Builds the runs to find mistakes early; compiles nothing.

  Of runs that differ in the seed only, one is built, and all on the data of the
  first run. This finds what settings alone do not show: a method that needs a
  public set, say, or does not run with quantized clients.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  if not runs:
    return
  federation = build_federation(runs[0].settings)
  seen = set()
  for run in runs:
    without_seed = str({**run.settings.to_dict(), "seed": None})
    if without_seed in seen:
      continue
    seen.add(without_seed)
    try:
      assemble(run.settings, federation=federation)
    except ValueError as error:
      raise ValueError(f"{run.row.name}: {error}") from error


def run_missing(
  runs: Sequence[Run],
  start: Callable[..., Any] = run_experiment,
  say: Callable[[str], None] = print,
  *,
  quiet: bool = False,
) -> int:
  """Runs those that are not done, and says after each how long is left.

  Args:
    runs: in the order in which to run them.
    start: `start(settings, folder, display=..., resume=...)` runs one.
    say: prints a line.
    quiet: whether the progress within each run is hidden.

  Returns:
    How many were run.

  Raises:
    ValueError: settings that do not fit each other or the data, before any run
      starts.
  """
  pending = [run for run in runs if not is_done(run)]
  check(pending)
  say(f"{len(pending)} of {len(runs)} runs to do")
  began, seconds = time.perf_counter(), {}
  for number, run in enumerate(pending, 1):
    started = time.perf_counter()
    display = Display(label=run.title, lines=2, quiet=quiet)
    # A folder of other settings is emptied, and that run begins anew.
    start(run.settings, run.folder, display=display, resume=_is_begun(run))
    now = time.perf_counter()
    next_one = now - started
    if run.row not in seconds:
      # Later runs of the row find its programs in the compilation cache.
      next_one -= summary_of(run)["timing"]["compile_seconds"]
    seconds[run.row] = next_one
    left = estimate(seconds, pending[number:])
    say(
      f"[{number}/{len(pending)}] {run.title}: {now - started:.0f} s; "
      f"{minutes(now - began)} elapsed, about {minutes(left)} left"
    )
  return len(pending)


def estimate(seconds: Mapping[Any, float], left: Sequence[Run]) -> float:
  """Seconds that the runs that are left will take.

  Args:
    seconds: {row: seconds that another run of the row takes}; a row that is
      not there takes the mean of these.
    left: the runs.
  """
  mean = float(np.mean(list(seconds.values())))
  return sum(seconds.get(run.row, mean) for run in left)


def minutes(seconds: float) -> str:
  """Seconds as minutes and seconds, such as 3:07."""
  whole = round(seconds)
  return f"{whole // 60}:{whole % 60:02d}"


def summary_of(run: Run) -> dict[str, Any]:
  """Reads the summary of a finished run."""
  summary = json.loads((run.folder / "summary.json").read_text())
  return former_names.renamed(summary, former_names.SUMMARY)


def history_of(run: Run) -> list[dict[str, Any]]:
  """Reads the records of a finished run, one per evaluated round."""
  lines = (run.folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def read(run: Run) -> Finished:
  """Reads what a finished run left."""
  summary = summary_of(run)
  with (run.folder / "clients.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  accuracy = np.array([float(row[summary["primary_variant"]]) for row in rows])
  return Finished(summary, accuracy, history_of(run))
