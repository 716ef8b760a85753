"""`quped run`: runs one federated method, or says what a run will be.

Settings are given by name, and change those of a preset or a config file. The
same command resumes an interrupted run from its last checkpoint.

On several machines, or in several processes on one, run the same command in
each with --coordinator=HOST:PORT, --num_processes=N and a --process_id from 0
to N - 1; on a cluster that JAX knows, such as Slurm, with --distributed alone.
"""

import argparse

import quped_jax as qj
from quped_jax.command_line import (
  given,
  named,
  outline,
  results,
  setting_help,
  startup,
)
from quped_jax.experiment import presets
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.comparison import plan
from quped_jax.simulation import processes

SUMMARY = "run one federated method, or say what a run will be"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  setting_help.add_arguments(parser)
  given.add_arguments(parser, "digits")
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    help="folder for the results; without it, none are kept",
  )
  parser.add_argument(
    "--dry-run",
    "--dry_run",
    action="store_true",
    help="say what the run will be: clients, data, bytes, memory; then nothing",
  )
  given.add_restart(parser)
  parser.add_argument(
    "--quiet",
    action="store_true",
    help="show no progress; results and warnings are shown",
  )
  _add_processes(parser)


def _add_processes(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("several processes")
  group.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="of process 0, if there are several",
  )
  group.add_argument(
    "--num_processes",
    metavar="N",
    type=int,
    default=1,
    help="number of processes",
  )
  group.add_argument(
    "--process_id",
    metavar="N",
    type=int,
    default=0,
    help="number of this process",
  )
  group.add_argument(
    "--distributed",
    action="store_true",
    help="join processes as told by the cluster's environment",
  )
  group.add_argument(
    "--process_timeout",
    metavar="SECONDS",
    type=float,
    default=300.0,
    help="how long to wait for the other processes",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the settings of the command line."""
  startup.prepare()
  # First: a process whose settings are refused tells the others.
  startup.join(
    args.coordinator,
    args.num_processes,
    args.process_id,
    distributed=args.distributed,
    timeout=args.process_timeout,
  )
  settings = settings_of(args)
  if args.dry_run:
    outline.show(
      assemble(settings, workdir=args.workdir), results.make_console()
    )
    print("nothing was run")
    return
  train(settings, args.workdir, restart=args.restart, quiet=args.quiet)


def settings_of(args: argparse.Namespace) -> qj.Settings:
  """The settings of the preset or config file, with those given by name.

  Raises:
    ValueError: settings that are unknown or not allowed, or a comparison.
  """
  values = given.read(args)
  if presets.compares(values):
    raise ValueError(
      f"{given.source(args)}: must be settings of a run; `quped compare` runs "
      "comparisons"
    )
  options = [name for name in vars(args) if name != "settings"]
  changes = named.values_of(named.pairs(args.settings), options)
  return qj.Settings.from_dict(plan.merge(values, changes))


def train(
  settings: qj.Settings,
  workdir: str | None,
  *,
  restart: bool = False,
  quiet: bool = False,
) -> None:
  """Runs a method, and prints how well it did.

  Args:
    settings: of the run.
    workdir: folder for the results; None to keep none.
    restart: whether results of other runs in the workdir are replaced.
    quiet: whether no progress is shown.
  """
  display = qj.Display(quiet=quiet)
  if workdir is None:
    display.note("no results are kept; --workdir=DIR keeps them in a folder")
  result = qj.run(settings, workdir, display=display, resume=not restart)
  if not processes.is_first():
    return
  results.print_summary(result.summary)
  if workdir is not None:
    print(f"Results are in {workdir}")
