"""Settings of each method, chosen on validation data with one budget for all.

Every row, a method at a precision, tries the same number of settings, drawn
without replacement from the grid that the config gives for the method. A
trial's score is the accuracy of the method's primary variant after the last
round on the validation part of the clients' training data, mean over clients,
then over seeds. Accuracy on test data is never read. (The test samples of a
seed can be validation samples of another, whose clients are different ones.
FedGKD-VOTE weighs its teachers by validation samples, and so by those that it
is chosen on.)
"""

import csv
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import quped_jax as qj
from quped_jax.experiment import metrics
from quped_jax.experiment.comparison import plan
from quped_jax.experiment.comparison import runs as runs_lib
from quped_jax.experiment.comparison.plan import Row, Run


class Trial(NamedTuple):
  """One choice of settings of a row.

  Attributes:
    row: whose.
    number: from 0.
    settings: {"setting" or "method.option": value}.
    runs: one per seed.
  """

  row: Row
  number: int
  settings: dict[str, Any]
  runs: list[Run]


def flatten(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"quped": {"lambda_p": x}} as {"quped.lambda_p": x}."""
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
  field: str, space: Mapping[str, Any], trials: int, seed: int = 0
) -> list[dict[str, Any]]:
  """Draws different points of a grid.

  Args:
    field: what errors call the space.
    space: {setting: values, or method: {option: values}}.
    trials: how many.
    seed: of the draw; methods with equal spaces try the same.

  Raises:
    ValueError: a grid with fewer points.
  """
  flat = flatten(space)
  for name, values in flat.items():
    if not isinstance(values, (list, tuple)) or not values:
      raise ValueError(
        f"{field}.{name}={values!r}: must be a tuple of the values to try"
      )
  grid = list(itertools.product(*flat.values()))
  if len(grid) < trials:
    raise ValueError(
      f"{field}: must have trials={trials} settings at least, as many as every "
      f"method tries; has {len(grid)}"
    )
  chosen = np.random.default_rng(seed).choice(len(grid), trials, replace=False)
  return [dict(zip(flat, grid[i], strict=True)) for i in sorted(chosen)]


def make_trials(
  config: Mapping[str, Any], workdir: pathlib.Path
) -> list[Trial]:
  """All trials of all rows.

  Args:
    config: of a comparison, as plain values, with a section `tune`.
    workdir: in whose folder `tune` every run has one of its own.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  plan.check_fields(config)
  own = config.get("tune", {})
  for name in ("trials", "seeds", "rounds", "validation_fraction", "spaces"):
    if name not in own:
      raise ValueError(
        f"config.tune.{name}: must be there, as in configs/compare_digits.py"
      )
  for name in ("trials", "rounds"):
    if not isinstance(own[name], int) or own[name] < 1:
      raise ValueError(f"tune.{name}={own[name]!r}: must be 1 or more")
  fraction = own["validation_fraction"]
  if not isinstance(fraction, float) or not 0 < fraction < 1:
    raise ValueError(
      f"tune.validation_fraction={fraction!r}: must be between 0 and 1, so "
      "that there is validation data to choose on"
    )
  seeds = plan.parse_seeds("tune.seeds", own["seeds"])
  rows, trials = plan.make_rows(config), []
  for row in rows:
    if row.method not in own["spaces"]:
      raise ValueError(
        f"tune.spaces.{row.method}: must be there, since {row.method!r} is one "
        f"of methods; there are {', '.join(own['spaces'])}"
      )
    field = f"tune.spaces.{row.method}"
    drawn = draw(field, own["spaces"][row.method], own["trials"])
    for number, settings in enumerate(drawn):
      changes = {
        **_checked(field, unflatten(settings)),
        "validation_fraction": fraction,
        "rounds": own["rounds"],
        # Nothing but the last round counts.
        "eval_every": own["rounds"],
      }
      trials.append(
        Trial(
          row,
          number,
          settings,
          [
            Run(
              row,
              plan.row_settings(config, row, seed, changes),
              workdir / "tune" / f"{row.name}_trial{number}_seed{seed}",
              f"{row.title}, {describe(settings)}, seed {seed}",
            )
            for seed in seeds
          ],
        )
      )
  return trials


def _checked(field: str, settings: dict[str, Any]) -> dict[str, Any]:
  """Raises a ValueError where settings are not a method's to choose."""
  for name in settings:
    if name in (*plan.SHARED, "rounds", "eval_every", "method", "bits"):
      raise ValueError(f"{field}.{name}: must be the same for all methods")
  return settings


def score(run: Run) -> float:
  """A finished run's accuracy on validation data; NaN if training failed."""
  primary_variant = runs_lib.summary_of(run)["primary_variant"]
  value = runs_lib.history_of(run)[-1][f"validation/{primary_variant}"]
  return math.nan if value is None else value


def _seconds(run: Run) -> float:
  return runs_lib.summary_of(run)["timing"]["total_seconds"]


def records(trials: list[Trial]) -> list[dict[str, Any]]:
  """What was tried and what came of it, a record per finished trial."""
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
  """{method_bits: overrides} of every row's best trial, the first of equals."""
  result, scores = {}, {}
  for trial, record in zip(trials, tried, strict=True):
    value = np.nan_to_num(record["validation"], nan=-1.0)
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
  (workdir / "tune.json").write_text(json.dumps(content, indent=2) + "\n")
  (workdir / "best.json").write_text(json.dumps(chosen, indent=2) + "\n")
  with (workdir / "tune.csv").open("w", newline="") as file:
    table = csv.DictWriter(file, fieldnames=list(tried[0]))
    table.writeheader()
    for record in tried:
      table.writerow({**record, "settings": describe(record["settings"])})


def describe(settings: Mapping[str, Any]) -> str:
  """Settings in one line."""
  return " ".join(f"{name}={value}" for name, value in settings.items())


def tune(
  config: Mapping[str, Any],
  workdir: pathlib.Path,
  start: Callable[..., Any] = qj.run,
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Tries settings of every row, and chooses the best.

  Args:
    config: of a comparison, as plain values, with a section `tune`.
    workdir: for all that is tried; what is there already is not run again.
    start: `(settings, folder, display=..., resume=...)`, runs one.
    say: prints a line.

  Returns:
    {method_bits: overrides}, which is in `best.json` too.
  """
  trials = make_trials(config, workdir)
  all_runs = [run for trial in trials for run in trial.runs]
  # A run's own display shows accuracy on test data.
  runs_lib.run_missing(all_runs, start, say, quiet=True)
  tried = records(trials)
  chosen = best(trials, tried)
  budget = {k: v for k, v in config["tune"].items() if k != "spaces"}
  write(workdir, budget, tried, chosen)
  return chosen
