"""What a run is made of but for its programs, and which runs share these."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import checks, methods
from quped_jax import models as models_lib
from quped_jax.data import padding
from quped_jax.data.federation import Federation
from quped_jax.experiment import fingerprints, own_functions
from quped_jax.experiment.build_clients import (
  Clients,
  build_clients,
  build_population,
  check_networks,
)
from quped_jax.experiment.build_data import build_federation, check_clients
from quped_jax.experiment.build_method import (
  BuiltMethod,
  build_guarantee,
  build_method,
)
from quped_jax.experiment.own_functions import NOTHING, OwnFunctions
from quped_jax.experiment.settings import Settings, swept
from quped_jax.simulation.state import Population


class Parts(NamedTuple):
  """The parts of a run; nothing of them is compiled.

  Attributes:
    federation: the data of all clients, held-out clients last.
    clients: the networks, and which client has which.
    built: the method, for the clients that train.
    population: what each client brings, held-out clients last.
    privacy: the guarantee for the shared model; None without one.
    own: a user's own loss and metrics.
  """

  federation: Federation
  clients: Clients
  built: BuiltMethod
  population: Population
  privacy: dict[str, Any] | None
  own: OwnFunctions

  @property
  def settings(self) -> Settings:
    """All settings, with `steps` as they follow from epochs and budget."""
    return self.built.settings

  @property
  def trained(self) -> Federation:
    """The data of the clients that train."""
    return self.federation.first(self.settings.clients)

  @property
  def members(self) -> dict[str, np.ndarray]:
    """{cohort: ids of its clients}, of those that train."""
    return self.clients.assignment.first(self.settings.clients).members()


def make_parts(
  settings: Settings,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  own: OwnFunctions = NOTHING,
) -> Parts:
  """Makes the parts of a run.

  Args:
    settings: all settings.
    federation: used instead of the one that the settings describe, if given.
    model: the network of all clients, likewise.
    own: a user's own loss and metrics.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  checks.instance("settings", settings, Settings, "Settings.from_dict")
  if federation is not None:
    checks.instance("federation", federation, Federation, "make_federation")
  # Before the data, which may have to be fetched first.
  check_networks(settings, model)
  privacy = build_guarantee(settings)

  federation = federation or build_federation(settings)
  check_clients(settings, federation)
  settings = own_functions.settled(settings, own, federation)
  clients = build_clients(settings, federation, model)
  # A budget may have bought full precision only.
  bits = clients.assignment.bits.tolist() if settings.budget_bytes else None
  built = build_method(
    settings,
    federation.first(settings.clients),
    clients.models,
    bits,
    assigned=clients.assignment.bits[: settings.clients].tolist(),
    loss=own.loss,
  )
  population = build_population(
    built.settings, clients.assignment, built.own_steps
  )
  return Parts(federation, clients, built, population, privacy, own)


def program_of(parts: Parts) -> Hashable:
  """A value that is equal for runs that the same compiled programs serve.

  They have the same networks and clients in each cohort, and differ in data and
  in values, see `swept`, alone.
  """
  population = jax.tree.flatten(parts.population)
  return (
    repr(sorted(swept.program_of(parts.settings).items())),
    padding.shape_of(parts.federation),
    population[1],
    tuple((np.shape(x), np.asarray(x).dtype.name) for x in population[0]),
    tuple((name, ids.tobytes()) for name, ids in parts.members.items()),
    _of_method(parts),
  )


def _of_method(parts: Parts) -> Hashable:
  """What a method may have taken of the data: it is part of its programs."""
  entry = methods.get_method(parts.settings.method)
  if not entry.takes_federation or entry.shares:
    return None
  return fingerprints.of_data(parts.federation)
