"""Methods side by side: tables and figures from one config.

python -m experiments.compare --config=configs/compare_digits.py \
  --workdir=results/compare --config.methods=local,quped --config.seeds=0,1

Every method runs at every precision from every seed, each run in a folder of
its own. What is done already is not run again: after an interruption the same
command goes on. `--tune` tries settings of every method instead, as many for
each, and chooses on validation data:

python -m experiments.compare --tune --workdir=results/tune
python -m experiments.compare --overrides=results/tune/best.json

`quped_jax/experiment/comparison/plan.py` says what a config holds.
"""

import json
import pathlib
import pprint
import signal
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags

from experiments import common
from quped_jax.experiment.comparison import plan, report, tune

_CONFIG = common.define_config("configs/compare_digits.py")
_WORKDIR = flags.DEFINE_string(
  "workdir", "results/compare", "Folder for the results."
)
_TUNE = flags.DEFINE_bool(
  "tune", False, "Try settings of every method, and choose the best."
)
_OVERRIDES = flags.DEFINE_string(
  "overrides", "", "File with more of the config's overrides, best.json say."
)


def _config() -> dict[str, Any]:
  """The config as plain values, with the overrides of the file."""
  config = _CONFIG.value.to_dict()
  if _OVERRIDES.value:
    more = read_overrides(_OVERRIDES.value)
    overrides = config.setdefault("overrides", {})
    for name, own in more.items():
      overrides[name] = plan.merge(overrides.get(name, {}), own)
  return config


def read_overrides(path: str) -> Mapping[str, Mapping[str, Any]]:
  """Reads {method, or method_bits: settings} from a JSON file."""
  try:
    values = json.loads(pathlib.Path(path).read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"overrides={path!r}: must be JSON ({error})") from error
  if not isinstance(values, dict) or not all(
    isinstance(own, dict) for own in values.values()
  ):
    raise ValueError(
      f"overrides={path!r}: must map methods to their settings, as best.json "
      "of --tune does"
    )
  return values


def _tune(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  best = tune.tune(config, folder)
  print("config.overrides of the best, of validation data:")
  pprint.pp(best)
  print(f"All that was tried: {folder / 'tune.csv'}")
  print(f"To compare with them: --overrides={folder / 'best.json'}")


def main(argv: list[str]) -> None:
  """Runs what is missing, and writes tables and figures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")

  def run():
    folder = pathlib.Path(_WORKDIR.value)
    try:
      (_tune if _TUNE.value else report.compare)(_config(), folder)
    except KeyboardInterrupt as error:
      print("interrupted; the same command goes on", file=sys.stderr)
      sys.exit(128 + getattr(error, "signal", signal.SIGINT))

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
