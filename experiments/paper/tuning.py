"""Chooses a row's settings, with as many gradients as any other row's.

A method whose step takes three gradients gets a third of the trials of one
whose step takes one: in `tune`, `gradients` says how many a client evaluates in
all trials of a row together. No row gets less than one trial, nor more than its
space has points.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.paper import catalog
from experiments.paper.catalog import Part
from quped_jax import checks, reading
from quped_jax.experiment import many
from quped_jax.experiment.comparison import plan, tune
from quped_jax.experiment.comparison.plan import Row


class Budget(NamedTuple):
  """What tuning a row takes.

  Attributes:
    trials: how many settings are tried; with halving, how many could be
      trained to the end.
    gradients: that a client evaluates in all of them.
    points: that the space has.
  """

  trials: int
  gradients: float
  points: int


def budget(part: Part, row: Row, sources: many.Sources) -> Budget:
  """How many settings are tried for a row; compiles nothing.

  Args:
    part: the comparison.
    row: one of its rows.
    sources: its data.

  Raises:
    ValueError: anything in the config that is not allowed.
  """
  section = part.config["tune"]
  checks.at_least("tune.gradients", section.get("gradients", 0), 1)
  space = tune.space_of(section, row.method)
  points = math.prod(map(len, space.values()))
  seeds = plan.parse_seeds("tune.seeds", section["seeds"])
  made = plan.row_settings(part.config, row, seeds[0])
  of_round = sources.plan(made).parts.built.method.gradients
  if of_round is None:
    raise ValueError(
      f"tune.spaces.{row.method}: must not be given; {made.method!r} does not "
      "say how many gradients it takes"
    )
  of_trial = of_round * section["rounds"] * len(seeds)
  trials = min(max(int(section["gradients"] / of_trial), 1), points)
  return Budget(trials, trials * of_trial, points)


def choose(
  part: Part, row: Row, trials: int, workdir: pathlib.Path, *, quiet: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Tries settings for a row; what was tried before is not run again.

  Args:
    part: the comparison.
    row: one of its rows.
    trials: see `Budget`.
    workdir: where the runs go.
    quiet: whether no progress is shown.

  Returns:
    The settings that did best, as overrides, {} if all diverged; and what was
    tried.
  """
  section = {**part.config["tune"], "trials": trials}
  del section["gradients"]
  config = {**catalog.alone(part.config, row), "tune": section}
  # What is there may be of another space.
  best = tune.tune(config, workdir, quiet=quiet, restart=True)
  tried = reading.read_json(workdir / "tune.json", nan=True)["trials"]
  return best.get(row.name, {}), tried


def with_chosen(
  config: Mapping[str, Any], row: Row, chosen: Mapping[str, Any]
) -> dict[str, Any]:
  """The config of a row alone, with settings chosen for it or another one.

  What the row's own overrides say counts more.

  Args:
    config: the comparison's config, as plain values.
    row: one of its rows.
    chosen: overrides, as `choose` returns them.
  """
  config = catalog.alone(config, row)
  own = config["overrides"].get(row.method, {})
  overrides = {**config["overrides"], row.method: plan.merge(chosen, own)}
  return {**config, "overrides": overrides}
