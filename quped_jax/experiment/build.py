"""Only the simulation of a run, without a run."""

from __future__ import annotations

from typing import NamedTuple

from quped_jax import models as models_lib
from quped_jax.data.federation import Federation
from quped_jax.experiment import own_functions
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.settings import Settings
from quped_jax.short_repr import short_repr
from quped_jax.simulation.simulation import Simulation


class Built(NamedTuple):
  """What `build` returns; see there."""

  simulation: Simulation
  federation: Federation
  model: models_lib.Model

  __repr__ = short_repr


def build(
  settings: Settings,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  loss: str | own_functions.Loss | None = None,
  metrics: own_functions.Metrics = (),
) -> Built:
  """Makes the simulation that the settings describe.

  Args:
    settings: all settings.
    federation: used instead of the one that the settings describe, if given.
    model: likewise.
    loss: what training minimises, see `run`.
    metrics: what `Simulation.measure` finds beside the score, see `run`.

  Returns:
    (simulation, federation, model): the programs of all rounds, not compiled
    yet; who holds which samples; and the clients' network, or one of several.

  Raises:
    ValueError: settings that do not fit each other or the data.

  Examples:
    >>> built = qj.build(qj.Settings(method="local", clients=4, bits=(32,)))
    >>> built.federation.num_clients, built.model.name
    (4, 'mlp')
  """
  settings, own = own_functions.read(settings, loss, metrics)
  made = assemble(settings, federation=federation, model=model, own=own)
  return Built(made.simulation, made.federation, made.model)
