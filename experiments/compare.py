"""Methods side by side: a table and figures from one config.

python -m experiments.compare --config=configs/compare_digits.py \
  --workdir=results/compare --config.methods=local,quped \
  --config.bits="32; 1" --config.seeds=0,1

Every method runs at every precision with every seed, each run in a folder of
its own. Semicolons separate precisions; commas are between those that clients
have in turn: --config.bits="32; 1,2". Finished runs are not repeated: after an
interruption the same command resumes. A folder with results of other settings,
data, networks or code is refused; `--restart` runs those anew, and only those.
`--tune` instead tries the same number of settings for every method, and chooses
the best on validation data:

python -m experiments.compare --tune --workdir=results/tune
python -m experiments.compare --overrides=results/tune/best.json

`--sensitivity=METHOD` draws the accuracy of one method over each setting that
is tuned, with all others as the config and the overrides give them.
`--grid=METHOD` combines all their values instead, and draws heat maps;
`--grid=METHOD:SETTING,SETTING` combines those of some settings.

`quped_jax/experiment/comparison/plan.py` says what a config holds.
"""

import pathlib
import pprint
import signal
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import command_line, common
from quped_jax import paths
from quped_jax.experiment import blocks
from quped_jax.experiment.comparison import (
  plan,
  report,
  row_grids,
  sensitivity,
  sheet,
  tune,
)

_CONFIG = command_line.define_config("configs/compare_digits.py")
_WORKDIR = flags.DEFINE_string(
  "workdir", "results/compare", "Folder for the results."
)
_TUNE = flags.DEFINE_bool(
  "tune", False, "Try settings for every method, and choose the best."
)
_SENSITIVITY = flags.DEFINE_string(
  "sensitivity", "", "Method of which each tuned setting is varied alone."
)
_GRID = flags.DEFINE_string(
  "grid",
  "",
  "Method of which all values of the tuned settings are combined; or "
  "METHOD:SETTING,SETTING for some settings.",
)
_OVERRIDES = flags.DEFINE_string(
  "overrides", "", "JSON file of further overrides, such as best.json."
)
_RESTART = command_line.define_restart()


def _config() -> dict[str, Any]:
  """The config as plain values, with the overrides of the file."""
  config = _CONFIG.value.to_dict()
  if _OVERRIDES.value:
    config = plan.with_overrides_of(config, _OVERRIDES.value)
  return config


def _compare(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  console = common.make_console()
  report.compare(config, folder, console=console, restart=_RESTART.value)


def _tune(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  best = tune.tune(config, folder, restart=_RESTART.value)
  print("config.overrides that did best on validation data:")
  pprint.pp(best)
  print(f"All that was tried: {folder / 'tune.csv'}")
  print(f"To compare with them: --overrides={folder / 'best.json'}")


def _vary(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  method = _SENSITIVITY.value
  sensitivity.sensitivity(config, method, folder, restart=_RESTART.value)
  for kind in ("json", "png"):
    print(folder / f"sensitivity_{method}.{kind}")


def _combine(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  found = row_grids.row_grids(
    config, _GRID.value, folder, restart=_RESTART.value
  )
  for row, own in found.items():
    table = own.sheet()
    blocks.print_table(
      common.make_console(), sheet.terminal(table), keep=table.names
    )
    print(f"Table and heat maps: {folder / 'grid' / row.name}")


def _task():
  """What the flags ask for: `(config, folder)` does it."""
  asked = {
    "tune": (_TUNE.value, _tune),
    "sensitivity": (_SENSITIVITY.value, _vary),
    "grid": (_GRID.value, _combine),
  }
  chosen = {name: task for name, (given, task) in asked.items() if given}
  if len(chosen) > 1:
    raise ValueError(
      f"{', '.join(f'--{name}' for name in chosen)}: must be one of them; the "
      "best settings that --tune found are taken by --overrides"
    )
  return next(iter(chosen.values()), _compare)


def main(argv: list[str]) -> None:
  """Runs what is missing, and writes tables and figures."""
  del argv  # The command's name alone.

  def run():
    folder = paths.given("workdir", _WORKDIR.value)
    try:
      _task()(_config(), folder)
    except KeyboardInterrupt as error:
      print("interrupted; the same command goes on", file=sys.stderr)
      sys.exit(128 + getattr(error, "signal", signal.SIGINT))

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
