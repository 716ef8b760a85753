"""Runs one federated method.

python -m experiments.federated --config=configs/digits.py --workdir=/tmp/run \
  --config.method=quped --config.bits=1,2,4,32

On several machines, or in several processes on one, run the same command in
each with --coordinator=HOST:PORT, --num_processes=N and a --process_id from 0
to N - 1; on a cluster that JAX knows, such as Slurm, with --distributed alone.

The same command resumes an interrupted run from its last checkpoint. A folder
with checkpoints or results of another run is refused; --restart begins anew.
"""

from absl import flags

from experiments import command_line, common
from quped_jax.command_line import startup
from quped_jax.commands.run import train

_CONFIG = command_line.define_config("configs/digits.py")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for the results.", required=True
)
_RESTART = command_line.define_restart()
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, if there are several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", 1, "Number of processes."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Number of this process.")
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Join processes as told by the cluster's environment."
)
_TIMEOUT = flags.DEFINE_float(
  "process_timeout", 300.0, "Seconds to wait for the other processes."
)


def main(argv: list[str]) -> None:
  """Runs the settings of the command line."""
  del argv  # The command's name alone.

  def run():
    # First: a process whose settings are refused tells the others.
    startup.join(
      _COORDINATOR.value,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      distributed=_DISTRIBUTED.value,
      timeout=_TIMEOUT.value,
    )
    settings = common.get_settings(_CONFIG.value)
    train(settings, _WORKDIR.value, restart=_RESTART.value)

  common.run_main(run)


if __name__ == "__main__":
  common.run_app(main)
