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

from absl import flags

from experiments import command_line, common
from quped_jax.commands.compare import compare

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


def main(argv: list[str]) -> None:
  """Runs what is missing, and writes tables and figures."""
  del argv  # The command's name alone.

  def run():
    compare(
      _CONFIG.value.to_dict(),
      _WORKDIR.value,
      overrides=_OVERRIDES.value,
      tuned=_TUNE.value,
      varied=_SENSITIVITY.value,
      restart=_RESTART.value,
    )

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
