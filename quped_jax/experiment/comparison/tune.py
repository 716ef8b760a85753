"""Tunes every method on validation data, all of them with the same budget.

For each row, a method at a precision, the same number of settings is tried,
drawn without replacement from the grid that the config gives for the method. A
row has a draw of its own, and it is balanced: each value of a setting is tried
as often as its other values, or once more or less. With `same_draws`, rows with
the same grid and as many trials try the same settings, so that it is not the
luck of a draw which of them does better. A trial's score is that
of the method's primary variant after the last round, on the validation
part of the clients' training data: its mean over clients, then over seeds. Test
data is never looked at. With successive halving, see `halving`, more settings
are tried in as many rounds.

Two caveats. Test samples of one seed can be validation samples of another,
where they belong to other clients. FedGKD-VOTE weights its teachers by how they
do on validation samples, the same on which its settings are then chosen.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from quped_jax import checks, kinds, paths
from quped_jax.experiment import many, metrics, output
from quped_jax.experiment.changes import describe, unflatten
from quped_jax.experiment.comparison import draws, halving, plan
from quped_jax.experiment.comparison import runs as runs_lib
from quped_jax.experiment.comparison.plan import Row, Run
from quped_jax.quantization import annealing

# Fields of the config's section `tune`.
_FIELDS = ("trials", "seeds", "rounds", "validation_fraction", "spaces")

# Settings that no space may hold.
_FIXED = (*plan.SHARED, "rounds", "eval_every", "method", "bits")


class Trial(NamedTuple):
  """Settings that are tried for a row.

  Attributes:
    row: the row.
    number: of the trial within its row, from 0.
    settings: {"setting" or "method.option": value}.
    runs: one per seed.
  """

  row: Row
  number: int
  settings: dict[str, Any]
  runs: list[Run]


def make_trials(
  config: Mapping[str, Any], workdir: pathlib.Path
) -> list[Trial]:
  """All trials of all rows, up to the end of the first rung if there are more.

  Args:
    config: the comparison's config, as plain values, with a section `tune`.
    workdir: each run has a folder of its own in `workdir / "tune"`.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  plan.check_fields(config)
  _check_section(config.get("tune", {}))
  section = config["tune"]
  seeds = plan.parse_seeds("tune.seeds", section["seeds"])
  rounds, *_ = halving.rounds_of_rungs(section)
  return [
    Trial(
      row,
      number,
      settings,
      [
        _make_run(config, workdir, row, number, settings, seed, rounds)
        for seed in seeds
      ],
    )
    for row in plan.make_rows(config)
    for number, settings in enumerate(_draw_for(row, section))
  ]


def _check_section(section: Mapping[str, Any]) -> None:
  """Checks all of the section `tune` but the spaces."""
  for name in _FIELDS:
    if name not in section:
      raise ValueError(
        f"config.tune.{name}: must be given, as in the preset compare_digits"
      )
  for name in ("trials", "rounds"):
    checks.whole(f"tune.{name}", section[name], 1)
  fraction = section["validation_fraction"]
  if not 0 < checks.number("tune.validation_fraction", fraction) < 1:
    raise ValueError(
      f"tune.validation_fraction={fraction!r}: must be between 0 and 1, so "
      "that there is validation data to choose on"
    )
  halving.check(section)


def space_of(section: Mapping[str, Any], method: str) -> dict[str, Any]:
  """What is tried for a method: {"setting" or "method.option": values}.

  Args:
    section: of the config, `tune`.
    method: its name, or that of a variant.

  Raises:
    ValueError: there is no space for it, or it holds what all share.
  """
  spaces, field = section.get("spaces", {}), f"tune.spaces.{method}"
  if method not in spaces:
    raise ValueError(
      f"{field}: must be given, since {method!r} is one of methods; there "
      f"are spaces for {', '.join(spaces) or 'none'}"
    )
  for name in spaces[method]:
    if name in _FIXED:
      raise ValueError(f"{field}.{name}: must be the same for all methods")
  return draws.grid(field, spaces[method])


def _draw_for(row: Row, section: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The settings that are tried for a row."""
  space, sizes = space_of(section, row.method), _sizes(section, row.method)
  same = kinds.boolean("tune.same_draws", section.get("same_draws", False))
  name = json.dumps(space) if same else row.name
  return draws.draw(f"tune.spaces.{row.method}", space, sizes[0], name)


def _sizes(section: Mapping[str, Any], method: str) -> list[int]:
  """How many trials of a row of the method each rung has."""
  points = math.prod(map(len, space_of(section, method).values()))
  trials = section["trials"]
  return halving.sizes_of_rungs(
    trials, halving.halvings_of(section), max(trials, points)
  )


def _make_run(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  row: Row,
  number: int,
  settings: Mapping[str, Any],
  seed: int,
  rounds: int,
  after: Run | None = None,
) -> Run:
  """A run of a trial, up to the end of a rung."""
  section = config["tune"]
  changes = {
    **unflatten(settings),
    "validation_fraction": section["validation_fraction"],
    "rounds": section["rounds"],
    # Only the last round of each rung counts.
    "eval_every": halving.rounds_of_rungs(section)[0],
  }
  name = f"{row.name}_trial{number}_seed{seed}"
  title = f"{row.title}, {describe(settings)}, seed {seed}"
  if halving.halvings_of(section):
    name, title = f"{name}_round{rounds}", f"{title}, {rounds} rounds"
  made = plan.row_settings(config, row, seed, changes)
  if rounds < section["rounds"]:
    if made.estimator in annealing.ANNEALED:
      # Later rungs go on from where this one has come.
      whole = made.anneal_rounds or made.rounds
      made = dataclasses.replace(made, anneal_rounds=whole)
    made = dataclasses.replace(
      made,
      rounds=rounds,
      checkpoint_every=rounds,
      # Fine-tuning may begin in a later rung.
      finetune_at=made.finetune_at if made.finetune_at < rounds else 0,
    )
  return Run(
    row,
    made,
    workdir / "tune" / name,
    title,
    after,
  )


def _go_on(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  trial: Trial,
  rounds: int,
) -> Trial:
  """A trial up to the end of the next rung."""
  row, number, settings, _ = trial
  runs = [
    _make_run(
      config, workdir, row, number, settings, run.settings.seed, rounds, run
    )
    for run in trial.runs
  ]
  return trial._replace(runs=runs)


def score(run: Run) -> float:
  """A run's score on validation data; NaN if it diverged."""
  if not runs_lib.is_finished(run):
    return math.nan
  primary_variant = runs_lib.summary_of(run)["primary_variant"]
  value = runs_lib.history_of(run)[-1][f"validation/{primary_variant}"]
  return math.nan if value is None else value


def _seconds(run: Run) -> float:
  if not runs_lib.is_finished(run):
    return 0.0
  return runs_lib.summary_of(run)["timing"]["total_seconds"]


def records(trials: list[Trial]) -> list[dict[str, Any]]:
  """What was tried and how well it did, a record per trial."""
  return [
    {
      "method": trial.row.method,
      "bits": trial.row.bits_title,
      "trial": trial.number,
      "settings": trial.settings,
      "validation": float(np.mean([score(run) for run in trial.runs])),
      "seconds": sum(_seconds(run) for run in trial.runs),
    }
    for trial in trials
  ]


def best(trials: list[Trial], tried: list[dict[str, Any]]) -> dict[str, Any]:
  """Each row's best trial, the first of equals, as {method_bits: overrides}.

  Those are compared that went through most rounds. A row of which every trial
  diverged has none.

  Args:
    trials: all trials.
    tried: their records, see `records`.
  """
  result, scores = {}, {}
  for trial, record in zip(trials, tried, strict=True):
    value = record["validation"]
    if math.isnan(value):  # It diverged.
      continue
    reached = record.get("rounds", 0), value
    if reached > scores.get(trial.row.name, (-1, -math.inf)):
      scores[trial.row.name] = reached
      result[trial.row.name] = unflatten(trial.settings)
  return result


def _better(
  section: Mapping[str, Any],
  rung: int,
  trials: list[Trial],
  tried: list[dict[str, Any]],
) -> list[Trial]:
  """The trials that go on to a rung: of each row the best, in their order."""
  scores = [record["validation"] for record in tried]
  chosen: list[int] = []
  for row in dict.fromkeys(trial.row for trial in trials):
    own = [
      i
      for i, trial in enumerate(trials)
      if trial.row == row and not math.isnan(scores[i])
    ]
    own.sort(key=lambda i: -scores[i])
    chosen += own[: _sizes(section, row.method)[rung]]
  return [trials[i] for i in sorted(chosen)]


def write(
  workdir: pathlib.Path,
  budget: Mapping[str, Any],
  tried: list[dict[str, Any]],
  chosen: Mapping[str, Any],
) -> None:
  """Writes `tune.json`, `tune.csv` and `best.json`."""
  content = {"budget": budget, "trials": tried, "best": chosen}
  content = metrics.plain(content)
  for name, value in (("tune.json", content), ("best.json", chosen)):
    paths.replace_text(workdir / name, json.dumps(value, indent=2) + "\n")
  rows = [{**x, "settings": describe(x["settings"])} for x in tried]
  paths.replace_text(workdir / "tune.csv", metrics.table(rows))


def tune(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  start: Callable[..., Any] | None = None,
  say: Callable[[str], None] = output.say,
  *,
  restart: bool = False,
  quiet: bool = False,
  run_strategy: str = "auto",
) -> dict[str, Any]:
  """Tries settings for every row, and chooses the best.

  Args:
    config: the comparison's config, as plain values, with a section `tune`.
    workdir: where all results go; what is there already is not run again.
    start: `start(settings, folder, display=..., resume=...)` runs one; by
      default, by programs that it shares with others.
    say: prints a line.
    restart: whether results of other runs in the workdir may be replaced.
    quiet: whether no progress is shown.
    run_strategy: how runs of the same programs go, see `many.run_groups`.

  Returns:
    {method_bits: overrides}, which is also in `best.json`.

  Raises:
    ValueError: anything in the config that is not allowed, or a workdir with
      results of other runs, before a run starts.
  """
  workdir = paths.given("workdir", workdir)
  say = output.nothing if quiet else say
  section = config.get("tune", {})
  trials = make_trials(config, workdir)
  sources, halved = many.Sources(), bool(halving.halvings_of(section))
  found: dict[tuple[Row, int], dict[str, Any]] = {}
  going = trials
  for rung, rounds in enumerate(halving.rounds_of_rungs(section)):
    if rung:
      going = _better(section, rung, going, [found[t[:2]] for t in going])
      going = [_go_on(config, workdir, trial, rounds) for trial in going]
    if halved:
      say(f"{len(going)} of {len(trials)} trials, up to round {rounds}")
    # Always: a run's own display shows scores on test data.
    runs_lib.run_missing(
      [run for trial in going for run in trial.runs],
      start,
      say,
      quiet=True,
      restart=restart,
      may_diverge=True,
      sources=sources,
      run_strategy=run_strategy,
    )
    for trial, record in zip(going, records(going), strict=True):
      if halved:
        before = found.get(trial[:2], {"seconds": 0.0})["seconds"]
        record |= {"rounds": rounds, "seconds": before + record["seconds"]}
      found[trial[:2]] = record
  tried = [found[trial[:2]] for trial in trials]
  chosen = best(trials, tried)
  budget = {k: v for k, v in section.items() if k != "spaces"}
  write(workdir, budget, tried, chosen)
  return chosen
