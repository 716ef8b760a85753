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
from quped_jax.experiment.comparison import plan, report, sensitivity, tune

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
_OVERRIDES = flags.DEFINE_string(
  "overrides", "", "JSON file of further overrides, such as best.json."
)
_RESTART = command_line.define_restart()
_QUIET = command_line.define_quiet()


def _config() -> dict[str, Any]:
  """The config as plain values, with the overrides of the file."""
  config = _CONFIG.value.to_dict()
  if _OVERRIDES.value:
    config = plan.with_overrides_of(config, _OVERRIDES.value)
  return config


def _compare(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  console = common.make_console()
  report.compare(
    config,
    folder,
    console=console,
    restart=_RESTART.value,
    quiet=_QUIET.value,
  )


def _tune(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  best = tune.tune(config, folder, restart=_RESTART.value, quiet=_QUIET.value)
  print("config.overrides that did best on validation data:")
  pprint.pp(best)
  print(f"All that was tried: {folder / 'tune.csv'}")
  print(f"To compare with them: --overrides={folder / 'best.json'}")


def _vary(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  method = _SENSITIVITY.value
  sensitivity.sensitivity(
    config, method, folder, restart=_RESTART.value, quiet=_QUIET.value
  )
  for kind in ("json", "png"):
    print(folder / f"sensitivity_{method}.{kind}")


def _task():
  """What the flags ask for: `(config, folder)` does it."""
  if _TUNE.value and _SENSITIVITY.value:
    raise ValueError(
      f"sensitivity={_SENSITIVITY.value!r}: must not be given with --tune, "
      "whose best settings it takes by --overrides"
    )
  if _SENSITIVITY.value:
    return _vary
  return _tune if _TUNE.value else _compare


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
