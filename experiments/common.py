"""What the command lines share: configs from settings, and errors for users."""

import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags, logging

import quped_jax as qj


def get_config(**overrides: Any) -> ml_collections.ConfigDict:
  """A config with every setting, of which some are given.

  Args:
    **overrides: settings; a method's name takes a dict of its options.

  Returns:
    A config whose fields are those of `quped_jax.Settings`, with a sub-config
    of options for each method.
  """
  settings = qj.Settings.from_dict(overrides)
  return ml_collections.ConfigDict(settings.to_dict())


def get_settings(config: ml_collections.ConfigDict) -> qj.Settings:
  """The checked settings that a config holds."""
  return qj.Settings.from_dict(config.to_dict())


def run_main(main: Callable[[], None]) -> None:
  """Runs a command; a user's mistake is one line and exit code 2.

  `--verbosity=1` gives the traceback instead.

  Args:
    main: raises ValueError, FileNotFoundError or ImportError for mistakes of
      the user.
  """
  if not flags.FLAGS["verbosity"].present:
    # tensorflow-datasets reports what it does at every turn.
    logging.set_verbosity(logging.WARNING)
  try:
    main()
  except (ValueError, FileNotFoundError, ImportError) as error:
    if logging.level_debug():
      raise
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def print_summary(summary: dict[str, Any]) -> None:
  """Prints the accuracy of the last round, variant by variant."""
  bits = ", ".join(str(b) for b in summary["bits"])
  print(
    f"{summary['method']} on {summary['dataset']}, {summary['model']}, "
    f"{bits} bits, {summary['clients']} clients, round {summary['rounds']}:"
  )
  for name, spread in summary["accuracy"].items():
    print(
      f"  {name:12s} {100 * spread['mean']:5.1f} %  "
      f"(worst client {100 * spread['worst']:.1f} %, "
      f"10th percentile {100 * spread['p10']:.1f} %)"
    )
