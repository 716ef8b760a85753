"""The identity of a run: what its results follow from, as JSON values.

It holds the settings that change results, each under its own name, and what
settings only name: the content of the data and of the participation trace, how
networks compute, the method's version, and the library's. Runs of one identity
have the same results; a result of another identity, or of none, is never taken
for theirs.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from quped_jax import kinds, methods, reading, version
from quped_jax.data.federation import Federation
from quped_jax.experiment import (
  fingerprints,
  former_names,
  metrics,
  own_functions,
)
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_data import build_federation
from quped_jax.experiment.own_functions import OwnFunctions
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.settings.clients import (
  ClientSettings,
  NetworkSettings,
)
from quped_jax.experiment.settings.data import DataSettings, PartitionSettings
from quped_jax.files.differences import differences
from quped_jax.methods import api
from quped_jax.simulation.participation import load_trace
from quped_jax.simulation.state import SimulationState

__all__ = [
  "DATA_FIELDS",
  "NETWORK_FIELDS",
  "Identity",
  "differences",
  "differing",
  "fields_of",
  "join",
  "of",
  "of_another_run",
  "of_data",
  "of_functions",
  "of_networks",
  "of_settings",
  "of_trace",
  "recorded",
]

# JSON values by name.
Identity = dict[str, Any]

VERSION = "version of quped_jax"
JAX = "version of jax"
RANDOM = "random numbers"
METHOD = "code of the method"
DATA = "data"
TRACE = "participation trace"
SHARED_NETWORK = "global network"
LOSS, METRIC = "loss function", "metric"
LOSS_TARGETS = "targets of the loss function"
STATE, FRESH = "initial state", "fresh weights"


def _names(*groups: Any) -> tuple[str, ...]:
  fields = [field for group in groups for field in dataclasses.fields(group)]
  return tuple(dict.fromkeys(field.name for field in fields))


# The settings from which a run's data and networks are made.
DATA_FIELDS = (
  *_names(DataSettings, PartitionSettings),
  "seed",
  "clients",
  "held_out_clients",
)
NETWORK_FIELDS = (
  *_names(DataSettings, ClientSettings, NetworkSettings),
  "granularity",
  "method",
)

# Settings that are paths: of these files the content counts, not the place.
_FILES = ("participation_trace", "warm_start")

# Its own files, in a workdir.
_FILE, _CONFIG = "identity.json", "config.json"


def of(
  made: Assembly, given: Settings, state: SimulationState | None = None
) -> Identity:
  """The identity of a run.

  Args:
    made: the run.
    given: its settings, as they were given.
    state: what it goes on from, instead of fresh weights.
  """
  return join(
    given,
    of_data(made.federation),
    of_networks(made.models, made.federation),
    of_functions(made.own, made.federation),
    _trace(made.population.participation.trace),
    _state(state),
  )


def of_settings(given: Settings) -> Identity:
  """The identity of the run that settings describe; compiles nothing.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  federation = build_federation(given)
  models = build_clients(given, federation).models
  return join(
    given,
    of_data(federation),
    of_networks(models, federation),
    of_trace(given),
  )


def fields_of(settings: Settings, names: Sequence[str]) -> tuple[Any, ...]:
  """The values of some settings: the same for runs that share what follows."""
  return tuple(getattr(settings, name) for name in names)


def of_data(federation: Federation) -> Identity:
  """The part that follows from the data; it reads all samples."""
  return {DATA: fingerprints.of_data(federation)}


def of_networks(models: api.Models, federation: Federation) -> Identity:
  """The part that follows from the networks."""
  hashes: dict[int, str] = {}

  def look(model):
    if id(model) not in hashes:
      hashes[id(model)] = fingerprints.of_network(model, federation)
    return hashes[id(model)]

  return {
    **{f"network of {name}": look(x) for name, x in models.clients.items()},
    SHARED_NETWORK: look(models.shared),
  }


def of_functions(own: OwnFunctions, federation: Federation) -> Identity:
  """The part that follows from a user's own loss and metrics, if any."""
  found = {
    f"{METRIC} {name}": fingerprints.of_function(fn, federation, gradient=False)
    for name, fn in own.metrics
  }
  if own.loss is not None:
    found[LOSS] = fingerprints.of_function(own.loss, federation, gradient=True)
    kind = own_functions.targets_of(federation)
    # The settings name no loss for other targets, which say what the score is.
    if kind != "classes":
      found[LOSS_TARGETS] = kind
  return found


def of_trace(given: Settings) -> Identity:
  """The part that follows from the file that says who takes part when."""
  path = given.participation_trace
  return _trace(load_trace(path, given.clients, given.rounds) if path else None)


def _trace(trace: Any) -> Identity:
  return {TRACE: None if trace is None else fingerprints.of_arrays(trace)}


def _state(state: SimulationState | None) -> Identity:
  if state is None:
    return {STATE: FRESH}
  if jax.process_count() > 1:  # A process sees only its own clients.
    seen = fingerprints.of_arrays((state.server, state.key))
    return {STATE: f"after round {int(state.round)}, {seen} at the server"}
  return {STATE: fingerprints.of_arrays(state)}


def _random_numbers() -> str:
  """What decides which random numbers a seed gives, but for JAX's version."""
  config: Any = jax.config  # Whose fields type checkers do not know.
  parts = "" if config.jax_threefry_partitionable else ", not partitionable"
  return config.jax_default_prng_impl + parts


def join(given: Settings, *parts: Identity) -> Identity:
  """An identity of its parts.

  Args:
    given: settings, as they were given.
    *parts: see `of_data`, `of_networks` and `of_trace`.
  """
  identity = {
    **given.identity(),
    **{name: getattr(given, name) and "a file" for name in _FILES},
    VERSION: version.__version__,
    JAX: jax.__version__,
    RANDOM: _random_numbers(),
    METHOD: methods.get_method(given.method).behaviour(),
    STATE: FRESH,
  }
  for part in parts:
    identity |= part
  # As it is read back from a file: infinity and NaN by their names.
  return json.loads(json.dumps(metrics.plain(identity, str), allow_nan=False))


def recorded(workdir: str | os.PathLike, here: Identity) -> Identity:
  """The identity of the run whose files a workdir holds.

  Of a run of a version that did not record it, only the settings are known; of
  a folder without any, nothing.

  Args:
    workdir: the folder.
    here: the identity that it will be compared with.

  Raises:
    ValueError: a file that says something else; names it.
  """
  folder = pathlib.Path(workdir)
  values = _read(folder / _FILE)
  if values:
    return values
  # Without settings that change no result, and methods that are not run.
  values = _read(folder / _CONFIG)
  return {name: value for name, value in values.items() if name in here}


def differing(workdir: str | os.PathLike, here: Identity) -> list[str]:
  """How the run whose files a workdir holds differs, in words; [] if not."""
  try:
    there = recorded(workdir, here)
  except ValueError as error:
    return [str(error)]
  return differences(there, here)


def of_another_run(
  workdir: str | os.PathLike, here: Identity
) -> list[str] | None:
  """How the run whose finished results a workdir holds differs from this one.

  Args:
    workdir: the folder.
    here: the identity of this run.

  Returns:
    What differs, in words; [] if it is the same run, and None if there are no
    results.
  """
  if not (pathlib.Path(workdir) / "summary.json").exists():
    return None
  return differing(workdir, here)


def _read(path: pathlib.Path) -> dict[str, Any]:
  """What a file says, under present names; {} if there is none."""
  with reading.naming(str(path), "an object of values by name"):
    try:
      content = reading.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
      return {}
    values = kinds.table(kinds.anything)("", content)
    return former_names.renamed(values, former_names.SETTINGS)
