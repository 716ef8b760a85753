"""Tunes every method on validation data, all of them with the same budget.

For each row, a method at a precision, the same number of settings is tried,
drawn without replacement from the grid that the config gives for the method. A
row has a draw of its own, and it is balanced: each value of a setting is tried
as often as its other values, or once more or less. A trial's score is the
accuracy of the method's primary variant after the last round, on the validation
part of the clients' training data: its mean over clients, then over seeds. Test
data is never looked at.

Two caveats. Test samples of one seed can be validation samples of another,
where they belong to other clients. FedGKD-VOTE weights its teachers by how they
do on validation samples, the same on which its settings are then chosen.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quped_jax import checks, paths, scalars
from quped_jax.experiment import metrics, output
from quped_jax.experiment.comparison import plan
from quped_jax.experiment.comparison import runs as runs_lib
from quped_jax.experiment.comparison.plan import Row, Run

# Fields of the config's section `tune`.
_FIELDS = ("trials", "seeds", "rounds", "validation_fraction", "spaces")

# Settings that no space may hold.
_FIXED = (*plan.SHARED, "rounds", "eval_every", "method", "bits")

# Random draws of a row's settings before they are taken along diagonals.
_ATTEMPTS = 50


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


def flatten(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Turns {"quped": {"lambda_p": x}} into {"quped.lambda_p": x}."""
  result = {}
  for name, value in space.items():
    if isinstance(value, Mapping):
      result |= flatten(value, f"{prefix}{name}.")
    else:
      result[prefix + name] = value
  return result


def unflatten(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`, in the shape of overrides."""
  result: dict[str, Any] = {}
  for name, value in settings.items():
    method, _, option = name.rpartition(".")
    (result.setdefault(method, {}) if method else result)[option] = value
  return result


def draw(
  field: str, space: Mapping[str, Any], trials: int, name: str
) -> list[dict[str, Any]]:
  """Draws distinct points of a grid, balanced over each setting's values.

  Each value of a setting is in `trials / number of values` points, rounded down
  or up. None is left out unless a setting has more values than there are
  trials.

  Args:
    field: what errors call the space.
    space: {setting: values, or method: {option: values}}.
    trials: number of points.
    name: whose draw it is; another name draws other points.

  Raises:
    ValueError: a grid with fewer points.
  """
  flat = {name: scalars.plain(x) for name, x in flatten(space).items()}
  for setting, values in flat.items():
    if not isinstance(values, (list, tuple)) or not values:
      raise ValueError(
        f"{field}.{setting}={values!r}: must be a tuple of the values to try"
      )
  sizes = [len(values) for values in flat.values()]
  if math.prod(sizes) < trials:
    raise ValueError(
      f"{field}: must have at least trials={trials} settings, as many as are "
      f"tried for every method; got {math.prod(sizes)}"
    )
  # The same in every process, unlike `hash`.
  rng = np.random.default_rng(list(name.encode()))
  return [
    {s: values[i] for (s, values), i in zip(flat.items(), point, strict=True)}
    for point in sorted(_balanced_points(sizes, trials, rng))
  ]


def _balanced_points(
  sizes: Sequence[int], trials: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
  """Distinct points of a grid that has axes of these sizes; see `draw`."""
  for _ in range(_ATTEMPTS):
    # On each axis, all of its values in random order, again and again.
    axes = []
    for size in sizes:
      turns = np.tile(np.arange(size), (-(-trials // size), 1))
      axes.append(rng.permuted(turns, axis=1).ravel()[:trials])
    points = list(zip(*(axis.tolist() for axis in axes), strict=True))
    if len(set(points)) == trials:
      return points
  # Hardly any draw has distinct points if it takes most of the grid.
  orders = [rng.permutation(size) for size in sizes]
  return [
    tuple(int(order[i]) for order, i in zip(orders, point, strict=True))
    for point in _diagonal_points(sizes, trials)
  ]


def _diagonal_points(
  sizes: Sequence[int], trials: int
) -> list[tuple[int, ...]]:
  """The first points of a path along a grid's diagonals, through all points.

  Every step goes one further on each axis, from its end to its start. Where the
  path would close, its later axes go one further once more, so that it goes on
  beside itself. It is balanced wherever it is cut.
  """
  times, axes, period = np.arange(trials), [], 1
  for size in sizes:
    # The path over the axes so far is closed after this many steps.
    closed = math.lcm(period, size)
    period *= size
    axes.append((times + times % period // closed) % size)
  return [tuple(int(axis[i]) for axis in axes) for i in range(trials)]


def make_trials(
  config: Mapping[str, Any], workdir: pathlib.Path
) -> list[Trial]:
  """All trials of all rows.

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
  return [
    _make_trial(config, workdir, row, number, settings, seeds)
    for row in plan.make_rows(config)
    for number, settings in enumerate(_draw_for(row, section))
  ]


def _check_section(section: Mapping[str, Any]) -> None:
  """Checks all of the section `tune` but the spaces."""
  for name in _FIELDS:
    if name not in section:
      raise ValueError(
        f"config.tune.{name}: must be given, as in configs/compare_digits.py"
      )
  for name in ("trials", "rounds"):
    checks.whole(f"tune.{name}", section[name], 1)
  fraction = section["validation_fraction"]
  if not 0 < checks.number("tune.validation_fraction", fraction) < 1:
    raise ValueError(
      f"tune.validation_fraction={fraction!r}: must be between 0 and 1, so "
      "that there is validation data to choose on"
    )


def _draw_for(row: Row, section: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The settings that are tried for a row."""
  spaces, field = section["spaces"], f"tune.spaces.{row.method}"
  if row.method not in spaces:
    raise ValueError(
      f"{field}: must be given, since {row.method!r} is one of methods; there "
      f"are spaces for {', '.join(spaces) or 'none'}"
    )
  for name in spaces[row.method]:
    if name in _FIXED:
      raise ValueError(f"{field}.{name}: must be the same for all methods")
  return draw(field, spaces[row.method], section["trials"], row.name)


def _make_trial(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  row: Row,
  number: int,
  settings: dict[str, Any],
  seeds: Sequence[int],
) -> Trial:
  section = config["tune"]
  changes = {
    **unflatten(settings),
    "validation_fraction": section["validation_fraction"],
    "rounds": section["rounds"],
    # Only the last round counts.
    "eval_every": section["rounds"],
  }
  runs = [
    Run(
      row,
      plan.row_settings(config, row, seed, changes),
      workdir / "tune" / f"{row.name}_trial{number}_seed{seed}",
      f"{row.title}, {describe(settings)}, seed {seed}",
    )
    for seed in seeds
  ]
  return Trial(row, number, settings, runs)


def score(run: Run) -> float:
  """A run's accuracy on validation data; NaN if it diverged."""
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

  A row of which every trial diverged has none.

  Args:
    trials: all trials.
    tried: their records, see `records`.
  """
  result, scores = {}, {}
  for trial, record in zip(trials, tried, strict=True):
    value = record["validation"]  # NaN, which is above nothing, if it diverged.
    if value > scores.get(trial.row.name, -math.inf):
      scores[trial.row.name] = value
      result[trial.row.name] = unflatten(trial.settings)
  return result


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


def describe(settings: Mapping[str, Any]) -> str:
  """Settings on one line."""
  return " ".join(f"{name}={value}" for name, value in settings.items())


def tune(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  start: Callable[..., Any] | None = None,
  say: Callable[[str], None] = output.say,
  *,
  restart: bool = False,
) -> dict[str, Any]:
  """Tries settings for every row, and chooses the best.

  Args:
    config: the comparison's config, as plain values, with a section `tune`.
    workdir: where all results go; what is there already is not run again.
    start: `start(settings, folder, display=..., resume=...)` runs one; by
      default, by programs that it shares with others.
    say: prints a line.
    restart: whether results of other runs in the workdir may be replaced.

  Returns:
    {method_bits: overrides}, which is also in `best.json`.

  Raises:
    ValueError: anything in the config that is not allowed, or a workdir with
      results of other runs, before a run starts.
  """
  workdir = paths.given("workdir", workdir)
  trials = make_trials(config, workdir)
  all_runs = [run for trial in trials for run in trial.runs]
  # Quiet: a run's own display shows accuracy on test data.
  runs_lib.run_missing(
    all_runs, start, say, quiet=True, restart=restart, may_diverge=True
  )
  tried = records(trials)
  chosen = best(trials, tried)
  budget = {k: v for k, v in config["tune"].items() if k != "spaces"}
  write(workdir, budget, tried, chosen)
  return chosen
