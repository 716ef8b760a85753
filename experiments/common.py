"""What the commands share: configs made of settings, and errors for users."""

from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags, logging

import quped_jax as qj
from experiments import command_line
from quped_jax import checks
from quped_jax.command_line import endings
from quped_jax.experiment import presets
from quped_jax.experiment.presets import bases


def get_config(**overrides: Any) -> ml_collections.ConfigDict:
  """A config of all settings, with defaults for those not given.

  Args:
    **overrides: settings; a method's name takes a dict of its options.

  Returns:
    A config with the fields of `quped_jax.Settings`, and a sub-config of
    options for each method.
  """
  settings = qj.Settings.from_dict(overrides)
  return ml_collections.ConfigDict(settings.to_dict())


def get_preset(name: str) -> ml_collections.ConfigDict:
  """The config of a preset.

  Args:
    name: of a run's preset, or of a comparison's, in which the settings that
      all runs share are filled in too.
  """
  values = presets.get(name)
  if not presets.compares(values):
    return get_config(**values)
  base = bases.base_of(get_config(**values["base"]).to_dict())
  return ml_collections.ConfigDict({**values, "base": base})


def get_variant(
  preset: str, field: str, variant: str
) -> ml_collections.ConfigDict:
  """The config of a preset that has variants.

  Args:
    preset: its name, without the variant.
    field: what the config calls the variant.
    variant: which it is.

  Raises:
    ValueError: there is no such variant.
  """
  checks.choice(field, variant, presets.variants(preset))
  return get_preset(f"{preset}:{variant}")


def get_settings(config: ml_collections.ConfigDict) -> qj.Settings:
  """The settings that a config holds, checked."""
  return qj.Settings.from_dict(config.to_dict())


def run_app(main: Callable[[list[str]], None]) -> None:
  """Runs `main` by `app.run`; a mistake in a flag is an error of one line.

  Makes every CPU core a device. Output that cannot be shown ends nothing.

  Args:
    main: takes the arguments that are not flags.
  """

  qj.use_cores()
  with endings.forgiving_output():
    app.run(main, flags_parser=command_line.parse)


def run_main(main: Callable[[], None]) -> None:
  """Runs a command; a user's mistake becomes one line and exit code 2.

  With `--verbosity=1` there is a traceback instead. Compiled programs are kept
  for later runs.

  Args:
    main: see `quped_jax.command_line.endings.run`.
  """
  if not flags.FLAGS["verbosity"].present:
    # tensorflow-datasets logs every step that it takes.
    logging.set_verbosity(logging.WARNING)
  qj.use_compilation_cache()
  endings.run(main, traceback=logging.level_debug())
