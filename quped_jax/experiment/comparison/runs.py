"""Runs what is missing of a list of runs, and reads what they left."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quped_jax import kinds, reading
from quped_jax.experiment import former_names, identity, many, output
from quped_jax.experiment import scores as scores_lib
from quped_jax.experiment import summary as summary_lib
from quped_jax.experiment.callbacks.base import Callback
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.comparison.identities import identities
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.comparison.shared_programs import SharedPrograms
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.files.checkpoint import Checkpoints

# What is read of a summary beside its scores. Like all that is not finite, a
# missing score is null in it.
_SUMMARY = kinds.record(
  {
    "primary_variant": kinds.text,
    "gradients": kinds.number(0),
    "clients": kinds.whole(1),
    "clients_per_round": kinds.number(0),
    "bytes_up": kinds.number(0),
    "bytes_down": kinds.number(0),
    "timing": kinds.record(
      {
        "seconds_per_round": kinds.number(),
        "compile_seconds": kinds.number(),
        "total_seconds": kinds.number(0),
      }
    ),
  }
)
_RECORD = kinds.table(kinds.optional(kinds.number()))


class Finished(NamedTuple):
  """What a run left in its folder.

  Attributes:
    summary: the content of `summary.json`.
    scores: of the primary variant on test data, float `[clients]`; NaN for a
      client that has none, such as one without test samples.
    history: a record per evaluated round.
  """

  summary: dict[str, Any]
  scores: np.ndarray
  history: list[dict[str, Any]]


class Pending(NamedTuple):
  """A run that is to do.

  Attributes:
    run: the run.
    resume: whether its folder holds no other run's files, to be replaced.
  """

  run: Run
  resume: bool


def to_do(
  runs: Sequence[Run],
  sources: many.Sources | None = None,
  *,
  restart: bool = False,
) -> list[Pending]:
  """The runs that are not done.

  A run is done if its folder holds the results of a run of its identity, in
  files that can be read.

  Args:
    runs: in the order in which to run them.
    sources: where what they share is kept, for what else needs it.
    restart: whether results and checkpoints of other runs may be replaced.

  Raises:
    ValueError: a run's folder holds those of another run; names the first.
      Also settings that do not fit each other or the data.
  """
  pending, others = [], []
  for run, here in zip(runs, identities(runs, sources), strict=True):
    differ = identity.differing(run.folder, here)
    finished = is_finished(run)
    if finished and not differ:
      differ = _mistakes(run)
    other = differ and (finished or Checkpoints(run.folder, here))
    if other:
      others.append((run, differ))
    if differ or not finished:
      # What comes into a folder meanwhile is not for this run to replace.
      pending.append(Pending(run, resume=not other))
  if others and not restart:
    run, differ = others[0]
    raise ValueError(
      f"workdir={str(run.folder.parent.parent)!r}: must be another folder, or "
      "have what differs begun anew (--restart), since results or checkpoints "
      f"of {len(others)} of the {len(runs)} runs are of other ones; of "
      f"{run.folder.name}, {'; '.join(differ)}"
    )
  return pending


def _mistakes(run: Run) -> list[str]:
  """What is wrong with the files of a finished run; [] if nothing is."""
  try:
    read(run)
  except ValueError as error:
    return [str(error)]
  return []


def run_missing(
  runs: Sequence[Run],
  start: Callable[..., Any] | None = None,
  say: Callable[[str], None] = output.say,
  *,
  quiet: bool = False,
  restart: bool = False,
  may_diverge: bool = False,
  sources: many.Sources | None = None,
  run_strategy: str = "auto",
  callbacks: Callable[[Run], Sequence[Callback]] | None = None,
) -> int:
  """Runs those that are not done, and says after each how long is left.

  Args:
    runs: in the order in which to run them.
    start: `start(settings, folder, display=..., resume=...)` runs one; by
      default, by programs that it shares with others.
    say: prints a line.
    quiet: whether the progress within each run is hidden.
    restart: see `to_do`.
    may_diverge: whether a run that ends because it diverges is left unfinished,
      and the next one begins.
    sources: where what the runs share is kept, for what else needs it.
    run_strategy: how runs of the same programs go, see `many.run_groups`.
    callbacks: `run -> callbacks` makes those of a run, see
      `quped_jax.Callback`, unless `start` is given.

  Returns:
    How many were run.

  Raises:
    DivergenceError: a run diverged that may not.
    ValueError: settings that do not fit each other or the data, or folders with
      results of other runs, before any run starts.
  """
  sources = sources or many.Sources()
  found = to_do(runs, sources, restart=restart)
  pending = [run for run, _ in found]
  anew = {run.folder for run, resume in found if not resume}
  shared = SharedPrograms(
    pending,
    sources,
    anew=anew,
    run_strategy=run_strategy,
    callbacks=callbacks,
  )
  start = start or shared
  say(f"{len(pending)} of {len(runs)} runs to do")
  began, seconds = time.perf_counter(), {}
  for number, (run, resume) in enumerate(found, 1):
    started = time.perf_counter()
    display = Display(label=run.title, lines=2, quiet=quiet)
    try:
      start(run.settings, run.folder, display=display, resume=resume)
    except DivergenceError as error:
      if not may_diverge:
        raise
      say(f"[{number}/{len(pending)}] {run.title}: {error}")
      continue
    now = time.perf_counter()
    # Of runs that went at once, each has its share of the time.
    timing = summary_of(run)["timing"]
    seconds[run.row] = timing["total_seconds"]
    # Later runs find the programs compiled.
    seconds[run.row] -= timing["compile_seconds"]
    left = [x for x in pending[number:] if x.folder not in shared.done]
    rest = minutes(estimate(seconds, left))
    say(
      f"[{number}/{len(pending)}] {run.title}: {now - started:.0f} s; "
      f"{minutes(now - began)} elapsed, about {rest} left"
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


def is_finished(run: Run) -> bool:
  """Whether a run's folder holds results of all its rounds."""
  return summary_lib.is_whole(run.folder)


def summary_of(run: Run) -> dict[str, Any]:
  """Reads the summary of a finished run.

  Raises:
    ValueError: a file that says something else; names it and the field.
  """
  path = run.folder / "summary.json"
  with reading.naming(str(path), "the summary of a finished run"):
    content = kinds.table(kinds.anything)("", reading.read_json(path))
    content = former_names.renamed(content, former_names.SUMMARY)
    if "stopped" in content:
      raise ValueError(
        f"stopped={content['stopped']}: must not be given; only runs that went "
        "through all their rounds are compared"
      )
    score = scores_lib.of_summary(content)
    one = kinds.number(score.lowest, 1)
    spread = kinds.record({"mean": one})
    scored = {
      score.name: kinds.table(
        kinds.record({"mean": one, "worst": one, "p10": one})
      ),
      "held_out_clients": kinds.table(spread),
    }
    summary = _SUMMARY("", kinds.record(scored)("", content))
    variant = summary["primary_variant"]
    kinds.choice(*summary[score.name])("primary_variant", variant)
    kinds.choice(run.settings.clients)("clients", summary["clients"])
    held_out = summary["held_out_clients"]
    if held_out and variant not in held_out:
      # Then they are compared by this one.
      kinds.record({"personalized": spread})("held_out_clients", held_out)
    return summary


def history_of(run: Run) -> list[dict[str, Any]]:
  """Reads the records of a finished run, one per evaluated round.

  Raises:
    ValueError: a file that says something else; names it and the line.
  """
  path, rounds = run.folder / "metrics.jsonl", run.settings.rounds
  with reading.naming(str(path), "the records of a finished run"):
    records, last = [], 0
    for number, value in enumerate(reading.read_json_lines(path), 1):
      records.append(_RECORD(f"line {number}", value))
      round_ = kinds.whole(last + 1, rounds)
      last = round_(f"line {number}.round", value.get("round"))
    if last != rounds:
      raise ValueError(f"it ends with round {last} of {rounds}")
    return records


def read(run: Run) -> Finished:
  """Reads what a finished run left.

  Raises:
    ValueError: a file that says something else; names it and what is wrong.
  """
  summary, history = summary_of(run), history_of(run)
  variant = summary["primary_variant"]
  path = run.folder / "metrics.jsonl"
  with reading.naming(str(path), "the records of a finished run"):
    for record in history:
      if f"test/{variant}" not in record:
        raise ValueError(f"test/{variant}: must be given in each line")
  path = run.folder / "clients.csv"
  with reading.naming(str(path), "the clients of a finished run"):
    lowest, found = scores_lib.of_summary(summary).lowest, []
    for i, (place, row) in enumerate(
      reading.read_csv(path, ("client", variant))
    ):
      kinds.whole_text(f"{place}: client", row["client"], i, i)
      found.append(
        kinds.number_text(f"{place}: {variant}", row[variant], lowest, 1)
      )
    if len(found) != summary["clients"]:
      raise ValueError(f"it has {len(found)} of {summary['clients']} rows")
  return Finished(summary, np.array(found), history)
