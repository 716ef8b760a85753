"""Sweeps: the runs of all combinations of some settings' values."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from quped_jax import checks, methods, paths, reading, scalars
from quped_jax import models as models_lib
from quped_jax.data.federation import Federation
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import many, output, own_functions, scores
from quped_jax.experiment import metrics as metrics_lib
from quped_jax.experiment import summary as summary_lib
from quped_jax.experiment.callbacks.base import Callback, of_runs
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.changes import describe, folder_name
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.result import Result
from quped_jax.experiment.run import brief
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.settings.fields import check_names
from quped_jax.files.checkpoint import Checkpoints
from quped_jax.files.differences import refusal


class SweptRun(NamedTuple):
  """A run of a sweep.

  Attributes:
    changes: {"setting" or "method.option": value}, where it differs.
    settings: all its settings.
    folder: where its results are; None for nowhere.
    summary: what `summary.json` holds; None if the run diverged.
    history: a record per evaluated round, what `metrics.jsonl` holds.
    error: how it diverged, in words; "" if it did not.

  Examples:
    >>> run = qj.SweptRun({"seed": 1}, qj.Settings(seed=1), None)
    >>> run.score  # it has no results yet
    nan
  """

  changes: dict[str, Any]
  settings: Settings
  folder: pathlib.Path | None
  summary: dict[str, Any] | None = None
  history: Sequence[dict[str, Any]] = ()
  error: str = ""

  @property
  def score(self) -> float:
    """Of the primary variant on test data, mean over clients, or NaN."""
    if self.summary is None:
      return math.nan
    return scores.of_summary(self.summary).of_primary(self.summary)

  @property
  def accuracy(self) -> float:
    """The score, where that is accuracy."""
    score = self.kind
    if score != scores.ACCURACY:
      raise AttributeError(
        f"accuracy: with these targets there is {score.title} instead, see "
        "`score`"
      )
    return self.score

  @property
  def kind(self) -> scores.Score:
    """What the score is; a run that is not finished goes by its settings."""
    if self.summary is None:
      return scores.of_run(self.settings)
    return scores.of_summary(self.summary)

  def __repr__(self) -> str:
    found = self.error or self.kind.in_words(self.score)
    return f"SweptRun({describe(self.changes)}: {found})"


def sweep(
  settings: Settings,
  over: Mapping[str, Iterable[Any]],
  workdir: str | os.PathLike | None = None,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  callbacks: Callable[[SweptRun], Sequence[Callback]] | None = None,
  loss: str | own_functions.Loss | None = None,
  metrics: own_functions.Metrics = (),
  say: Callable[[str], None] = output.say,
  quiet: bool = False,
  resume: bool = True,
  run_strategy: str = "auto",
) -> list[SweptRun]:
  """Runs all combinations of some settings' values.

  Each run is the one that its settings alone give, with a folder and files of
  its own. Runs that differ in samples, seeds, step sizes, strengths, chances
  and the numbers among a method's options alone, and in precisions with as many
  levels, go through the same compiled programs. A run that diverges costs the
  others nothing.

  If a sweep with a workdir is interrupted, the same call goes on: it reads the
  runs that are finished, and resumes the one that was interrupted.

  Args:
    settings: those of all runs.
    over: {"setting" or "method.option": the values to try}, such as
      {"seed": range(3), "quped.lambda_p": (0.1, 0.5)}.
    workdir: where results go, a folder per run, and `sweep.json`, what became
      of each; None for nowhere.
    federation: used instead of those that the settings describe, if given.
    model: likewise.
    callbacks: `run -> callbacks` makes those of a run that is to do, see
      `quped_jax.Callback`.
    loss: of all runs, see `run`; one that is to vary is a setting in `over`.
    metrics: of all runs, see `run`.
    say: prints a line.
    quiet: whether nothing is shown.
    resume: whether to keep what is finished, and to go on from checkpoints.
    run_strategy: how runs of the same programs go: "vmap" for all at once, as
      many as memory has room for; "one" for one after the other; "auto" for the
      first on accelerators and the second on CPUs.

  Returns:
    The runs, the values of the last setting varying fastest.

  Raises:
    ValueError: a setting that cannot be swept, no values, or values that are
      not allowed; settings that do not fit each other, the data or the memory;
      a workdir with results of other runs. All of it before anything is
      compiled, but for memory.
    Interrupted: see `run`.
    Exception: what a callback raises, likewise.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> runs = qj.sweep(settings, {"learning_rate": (0.01, 0.1)}, quiet=True)
    >>> [run.changes for run in runs]
    [{'learning_rate': 0.01}, {'learning_rate': 0.1}]
    >>> best = max(runs, key=lambda run: run.accuracy)
  """
  if jax.process_count() > 1:
    raise ValueError(
      f"processes={jax.process_count()}: must be 1 for a sweep; each run of it "
      "may have several"
    )
  checks.choice("run_strategy", run_strategy, many.STRATEGIES)
  say = output.nothing if quiet else say
  settings, own = own_functions.read(settings, loss, metrics)
  runs = plan(settings, over, workdir)
  sources = many.Sources(federation, model, own)
  planned = [_planned(sources, run) for run in runs]
  if resume:
    runs = [
      _found(run, other.identity)
      for run, other in zip(runs, planned, strict=True)
    ]
  todo = [i for i, run in enumerate(runs) if run.summary is None]
  called = of_runs(callbacks, [runs[i] for i in todo])
  say(_outlook(runs, planned, todo))
  _record(workdir, runs)
  results = many.run_groups(
    [planned[i] for i in todo],
    [runs[i].folder for i in todo],
    [
      Display(label=describe(runs[i].changes), lines=2, quiet=quiet)
      for i in todo
    ],
    called,
    resume=resume,
    model_given=model is not None,
    run_strategy=run_strategy,
  )
  try:
    for number, (place, result) in enumerate(results, 1):
      i = todo[place]
      runs[i] = _with(runs[i], result)
      _record(workdir, runs)
      say(f"[{number}/{len(todo)}] {runs[i]!r}")
  except KeyboardInterrupt as error:
    raise brief(error) from None
  return runs


def _with(run: SweptRun, result: Result | DivergenceError) -> SweptRun:
  if isinstance(result, DivergenceError):
    return run._replace(error=str(result))
  return run._replace(summary=result.summary, history=result.history)


def plan(
  settings: Settings,
  over: Mapping[str, Iterable[Any]],
  workdir: str | os.PathLike | None = None,
) -> list[SweptRun]:
  """The runs of a sweep, all of them to do; builds nothing.

  Args:
    settings: those of all runs.
    over: see `sweep`.
    workdir: likewise.

  Raises:
    ValueError: a setting that cannot be swept, no values, or values that are
      not allowed.
  """
  checks.instance("settings", settings, Settings, "Settings.from_dict")
  values = values_of(over)
  changes = [
    dict(zip(values, point, strict=True))
    for point in itertools.product(*values.values())
  ]
  several = [name for name, tried in values.items() if len(tried) > 1]
  folder = None if workdir is None else paths.given("workdir", workdir)
  found: dict[Settings, str] = {}
  runs = []
  for own in changes:
    made = _changed(settings, own)
    if made in found:
      raise ValueError(
        f"over: must be of different values; {describe(own)} is the same run "
        f"as {found[made]}"
      )
    found[made] = describe(own)
    shown = {name: own[name] for name in several or own}
    path = None if folder is None else folder / folder_name(shown)
    runs.append(SweptRun(own, made, path))
  return runs


def values_of(over: Any) -> dict[str, tuple[Any, ...]]:
  """The values of each setting, as a tuple of Python's own.

  Args:
    over: see `sweep`.

  Raises:
    ValueError: a setting that cannot be swept, or no values.
  """
  if not isinstance(over, Mapping) or not over:
    raise ValueError(
      f"over={checks.shown(over)}: must map at least one setting to the values "
      "to try"
    )
  return {name: _values(name, tried) for name, tried in over.items()}


def _values(name: Any, tried: Any) -> tuple[Any, ...]:
  _check_name(name)
  field = f"over[{name!r}]={checks.shown(tried)}"
  if isinstance(tried, (str, Mapping)) or not isinstance(tried, Iterable):
    raise ValueError(f"{field}: must be several values to try")
  values = tuple(scalars.plain(value) for value in tried)
  if not values:
    raise ValueError(f"{field}: must be at least one value to try")
  return values


def _check_name(name: Any) -> None:
  """Raises a ValueError unless the setting, or the option, can be swept."""
  method, dot, option = str(name).rpartition(".")
  if dot:
    checks.choice("over: the method", method, sorted(methods.METHODS))
    options = dataclasses.fields(methods.METHODS[method].options)
    checks.choice(
      f"over: the option of {method}", option, [x.name for x in options]
    )
    return
  fields = {field.name: field for field in dataclasses.fields(Settings)}
  del fields["method_options"]
  check_names({str(name): "..."}, fields)
  if fields[str(name)].metadata["free"]:
    raise ValueError(
      f"over[{name!r}]: must be a setting that results follow from"
    )


def _changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
  """The settings with other values."""
  own = {name: x for name, x in changes.items() if "." not in name}
  method = own.get("method", settings.method)
  options = {name: dict(x) for name, x in settings.method_options.items()}
  for name, value in changes.items():
    of, dot, option = name.rpartition(".")
    if dot and of != method:
      raise ValueError(
        f"over[{name!r}]: must be an option of the method that is run, "
        f"{method!r}"
      )
    if dot:
      options.setdefault(of, {})[option] = value
  return dataclasses.replace(settings, **own, method_options=options)


def _planned(sources: many.Sources, run: SweptRun) -> many.Planned:
  try:
    return sources.plan(run.settings)
  except ValueError as error:
    raise ValueError(f"{describe(run.changes)}: {error}") from error


def _found(run: SweptRun, identity: identity_lib.Identity) -> SweptRun:
  """The run with its results, if its folder has them.

  Raises:
    ValueError: the folder has results or checkpoints of another run.
  """
  if run.folder is None:
    return run
  finished = summary_lib.is_whole(run.folder)
  saved = bool(Checkpoints(run.folder, identity))
  if not (finished or saved):
    return run
  differ = identity_lib.differing(run.folder, identity)
  if differ:
    what = "results" if finished else "checkpoints"
    raise refusal(run.folder, what, differ)
  return _read(run) if finished else run


def _read(run: SweptRun) -> SweptRun:
  """The run with what it left; as it is if that cannot be read."""
  assert run.folder is not None
  try:
    summary = reading.read_json(run.folder / "summary.json")
    history = reading.read_json_lines(run.folder / "metrics.jsonl")
    read = run._replace(summary=summary, history=history)
    return read if math.isfinite(read.score) or history else run
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return run


def _outlook(runs, planned, todo) -> str:
  """What is to do, in words."""
  groups = many.groups([planned[i] for i in todo])
  text = f"{len(todo)} of {len(runs)} runs to do"
  if not todo:
    return text
  if len(groups) == 1:
    return f"{text}, by the same programs"
  shown = []
  for members in groups:
    changes = [runs[todo[i]].changes for i in members]
    same = {
      name: value
      for name, value in changes[0].items()
      if all(other[name] == value for other in changes)
      and any(run.changes[name] != value for run in runs)
    }
    shown.append(f"{describe(same) or 'others'} ({len(members)})")
  return f"{text}, by {len(groups)} sets of programs: {'; '.join(shown)}"


def _record(
  workdir: str | os.PathLike | None, runs: Sequence[SweptRun]
) -> None:
  """Writes what became of the runs so far."""
  if workdir is None:
    return
  folder = paths.given("workdir", workdir)
  folder.mkdir(parents=True, exist_ok=True)
  content = [
    {
      "folder": run.folder.name if run.folder else None,
      "changes": run.changes,
      "finished": run.summary is not None,
      run.kind.name: run.score,
      "error": run.error,
    }
    for run in runs
  ]
  text = json.dumps(metrics_lib.plain(content), indent=2, allow_nan=False)
  paths.replace_text(folder / "sweep.json", text + "\n")
