"""What a backend makes its programs of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quped_jax.data.federation import Federation
from quped_jax.simulation.evaluate import Evaluation
from quped_jax.simulation.round import Engine
from quped_jax.simulation.state import Population
from quped_jax.simulation.store import Store


class Blueprint(NamedTuple):
  """What a backend gets.

  Attributes:
    engine: the computations of a round; its layout says how clients are run.
    evaluation: the computations that evaluate clients.
    ids: {cohort: ids of its clients, int32 `[clients]`}; each client is in one.
    federation: the samples, in host memory or on a device.
    population: what the clients bring.
    store: where the clients' states are to be kept.
    deterministic: whether programs must give the same bits in every run.
    others: federations of further runs that the programs are to serve, of the
      same shape as this one.
  """

  engine: Engine
  evaluation: Evaluation
  ids: Mapping[str, np.ndarray]
  federation: Federation
  population: Population
  store: Store
  deterministic: bool = False
  others: Sequence[Federation] = ()
