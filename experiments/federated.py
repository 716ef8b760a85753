"""Runs one federated method.

python -m experiments.federated --config=configs/digits.py --workdir=/tmp/run \
  --config.method=quped --config.bits=1,2,4,32
"""

from absl import app, flags

import quped_jax as qj
from experiments import common

_CONFIG = common.define_config("configs/digits.py")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for the results.", required=True
)


def main(argv: list[str]) -> None:
  """Runs the settings of the command line."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")

  def run():
    result = qj.run(common.get_settings(_CONFIG.value), _WORKDIR.value)
    common.print_summary(result.summary)
    print(f"Results are in {_WORKDIR.value}")

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
