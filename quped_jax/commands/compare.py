"""`quped compare`: methods side by side, as a table and figures.

Every method runs at every precision with every seed, each run in a folder of
its own. Finished runs are not repeated: after an interruption the same command
resumes. Settings by name are those that all runs share.
"""

import argparse
import pathlib
import pprint
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quped_jax import paths
from quped_jax.command_line import given, named, results, setting_help, startup
from quped_jax.experiment import blocks, optional, presets
from quped_jax.experiment.comparison import (
  plan,
  report,
  row_grids,
  sheet,
  tune,
)
from quped_jax.experiment.presets import bases

SUMMARY = "compare methods: a table and figures"

# What is tried if nothing is said.
_DEFAULTS: dict[str, Any] = {"bits": "32", "seeds": (0,), "overrides": {}}
# Settings that the comparison says of each run, and how.
_OF_ROWS = {"method": "methods", "seed": "seeds"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  setting_help.add_arguments(parser)
  given.add_arguments(parser, "compare_digits")
  parser.add_argument(
    "--methods", metavar="NAMES", help="such as quped,fedavg,local"
  )
  parser.add_argument(
    "--bits",
    metavar="ROWS",
    help='precisions of rows, such as "32; 1; 1,2,32": with commas between '
    "those that clients have in turn",
  )
  parser.add_argument("--seeds", metavar="SEEDS", help="such as 0,1,2")
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    default="results/compare",
    help="folder for the results, %(default)s by default",
  )
  parser.add_argument(
    "--tune",
    action="store_true",
    help="try settings for every method, and choose the best on validation "
    "data",
  )
  parser.add_argument(
    "--sensitivity",
    metavar="METHOD",
    help="draw a method's score over each setting that is tuned",
  )
  parser.add_argument(
    "--grid",
    metavar="METHOD[:SETTINGS]",
    help="draw heat maps of a method's score over all combinations of the "
    "settings that are tuned, or of some: quped:learning_rate,quped.lambda_p",
  )
  parser.add_argument(
    "--overrides",
    metavar="FILE",
    help="JSON file of further settings by method, such as the best.json of "
    "--tune",
  )
  given.add_restart(parser)
  given.add_quiet(parser)


def run(args: argparse.Namespace) -> None:
  """Runs the comparison of the command line."""
  for name in ("overrides", "sensitivity", "grid"):
    # As of a variable of the shell that is not set: not to be left out.
    if getattr(args, name) == "":
      raise ValueError(f"--{name}='': must not be empty")
  startup.prepare()
  compare(
    comparison_of(args),
    args.workdir,
    overrides=args.overrides or "",
    tuned=args.tune,
    varied=args.sensitivity or "",
    combined=args.grid or "",
    restart=args.restart,
    quiet=args.quiet,
  )


def comparison_of(args: argparse.Namespace) -> dict[str, Any]:
  """The comparison of a preset or config file, with what is given by name.

  Raises:
    ValueError: settings that are unknown, or no methods.
  """
  values = given.read(args)
  if not presets.compares(values):
    values = {"base": bases.base_of(values)}
  values = {**_DEFAULTS, **values}
  if args.methods is not None:
    values["methods"] = (args.methods,)
  if args.bits is not None:
    values["bits"] = args.bits
  if args.seeds is not None:
    values["seeds"] = named.parse("seeds", "tuple[int, ...]", args.seeds)
  if "methods" not in values:
    raise ValueError(
      "methods: must be given, as by --methods=quped,local, or by the "
      "--preset or --config of a comparison"
    )
  pairs = list(named.pairs(args.settings))
  section = [pair for pair in pairs if pair[0].startswith("tune.")]
  if section:
    values["tune"] = _with_section(values.get("tune", {}), section)
  base = [pair for pair in pairs if pair not in section]
  options = [name for name in vars(args) if name != "settings"]
  return {**values, "base": _with_base(values["base"], base, options)}


def _with_base(
  base: Mapping[str, Any],
  pairs: Sequence[tuple[str, str | None]],
  options: Iterable[str],
) -> dict[str, Any]:
  """What all runs share, with what is given by name."""
  for name, _ in pairs:
    if name in _OF_ROWS:
      raise ValueError(f"--{name}: is called --{_OF_ROWS[name]} here")
  return plan.merge(base, named.values_of(pairs, options))


# Of the section `tune`, what can be given by name.
_TUNE = {
  "trials": int,
  "halving": int,
  "same_draws": bool,
  "seeds": "tuple[int, ...]",
  "rounds": int,
  "validation_fraction": float,
}


def _with_section(
  section: Mapping[str, Any], pairs: Iterable[tuple[str, str | None]]
) -> dict[str, Any]:
  """The section `tune`, with what is given by name."""
  found = dict(section)
  for written, text in pairs:
    name = written.partition(".")[2]
    if name not in _TUNE:
      raise ValueError(f"--{written}: must be tune.{' or tune.'.join(_TUNE)}")
    if text is None:
      raise ValueError(f"--{written}: must have a value")
    found[name] = named.parse(written, _TUNE[name], text)
  return found


def compare(
  config: Mapping[str, Any],
  workdir: str,
  *,
  overrides: str = "",
  tuned: bool = False,
  varied: str = "",
  combined: str = "",
  restart: bool = False,
  quiet: bool = False,
) -> None:
  """Compares, tunes, or varies the settings of one method.

  Args:
    config: the comparison, as plain values; see `plan`.
    workdir: folder for the results.
    overrides: a JSON file of further overrides; "" for none.
    tuned: whether settings are tried for every method, instead.
    varied: the method whose settings are varied, instead; "" for none.
    combined: the method whose settings are combined, see `row_grids`; likewise.
    restart: whether results of other runs in the workdir are replaced.
    quiet: whether no progress is shown.

  Raises:
    ValueError: anything that is not allowed, before a run starts.
    ImportError: settings are varied, and matplotlib is not installed.
  """
  folder = paths.given("workdir", workdir)
  asked = {"tune": tuned, "sensitivity": varied, "grid": combined}
  chosen = [f"--{name}" for name, given in asked.items() if given]
  if len(chosen) > 1:
    raise ValueError(
      f"{', '.join(chosen)}: must be one of them; --overrides takes the "
      "best settings that --tune found"
    )
  if overrides:
    config = plan.with_overrides_of(dict(config), overrides)
  try:
    if varied:
      _vary(config, varied, folder, restart=restart, quiet=quiet)
    elif combined:
      _combine(config, combined, folder, restart=restart, quiet=quiet)
    elif tuned:
      _tune(config, folder, restart=restart, quiet=quiet)
    else:
      console = results.make_console()
      report.compare(
        config, folder, console=console, restart=restart, quiet=quiet
      )
  except KeyboardInterrupt as error:
    print("interrupted; the same command goes on", file=sys.stderr)
    sys.exit(128 + getattr(error, "signal", signal.SIGINT))


def _tune(config: Mapping[str, Any], folder: pathlib.Path, **how: Any) -> None:
  best = tune.tune(config, folder, **how)
  print("overrides that did best on validation data:")
  pprint.pp(best)
  print(f"All that was tried: {folder / 'tune.csv'}")
  print(f"To compare with them: --overrides={folder / 'best.json'}")


def _vary(
  config: Mapping[str, Any], method: str, folder: pathlib.Path, **how: Any
) -> None:
  optional.need_matplotlib()
  from quped_jax.experiment.comparison import sensitivity

  sensitivity.sensitivity(config, method, folder, **how)
  for kind in ("json", "png"):
    print(folder / f"sensitivity_{method}.{kind}")


def _combine(
  config: Mapping[str, Any], asked: str, folder: pathlib.Path, **how: Any
) -> None:
  for row, found in row_grids.row_grids(config, asked, folder, **how).items():
    table = found.sheet()
    blocks.print_table(
      results.make_console(), sheet.terminal(table), keep=table.names
    )
    print(f"Table and heat maps: {folder / 'grid' / row.name}")
