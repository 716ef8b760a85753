"""The grids of a comparison's rows: a method over the space of its settings."""

import os
from collections.abc import Mapping
from typing import Any

from quped_jax import checks, paths
from quped_jax.experiment.comparison import plan, tune
from quped_jax.experiment.comparison.grid import Grid, grid
from quped_jax.experiment.comparison.plan import Row


def row_grids(
  config: Mapping[str, Any],
  asked: str,
  workdir: str | os.PathLike,
  *,
  restart: bool = False,
  quiet: bool = False,
) -> dict[Row, Grid]:
  """Runs a method at all combinations of its space's values, row by row.

  All other settings are as the config gives them.

  Args:
    config: the comparison's config, as plain values, with a section `tune`,
      which has a space for the method.
    asked: the name of the method, or of a variant. Behind a colon there may be
      some settings of its space, with commas between them, to be combined
      alone: "quped:learning_rate,quped.lambda_p".
    workdir: each row has a folder of its own in `workdir / "grid"`, with its
      table and its heat maps.
    restart: whether all of them begin anew, whatever is there.
    quiet: whether no progress is shown.

  Returns:
    {row: its grid}.

  Raises:
    ValueError: anything in the config that is not allowed, before a run of
      that row starts.
  """
  folder = paths.given("workdir", workdir)
  method, colon, names = asked.partition(":")
  rows = plan.make_rows({**config, "methods": (method,)})
  seeds = plan.parse_seeds("seeds", config["seeds"])
  space = tune.space_of(config.get("tune", {}), method)
  if colon:
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
      checks.choice(f"grid={asked!r}: the setting", name, list(space))
    space = {name: space[name] for name in chosen}
  found = {}
  for row in rows:
    settings = plan.row_settings(config, row, seeds[0])
    own = folder / "grid" / row.name
    found[row] = grid(
      settings, space, seeds, own, quiet=quiet, resume=not restart
    )
  return found
