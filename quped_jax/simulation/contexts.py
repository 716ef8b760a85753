"""What clients and server know in a round: the contexts that methods are given.

All randomness comes from one key: that of client i in round r is
`fold_in(fold_in(key, r), i)`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.simulation.schedule import Schedule
from quped_jax.simulation.state import Population, SimulationState


def of_client(
  schedule: Schedule,
  round_: Any,
  key: jax.Array,
  federation: Federation,
  population: Population,
  client_id: Any,
) -> api.Context:
  """What a client knows when a round begins, except its numbers of steps.

  Args:
    schedule: of the rates.
    round_: int32 `[]`.
    key: of the round, from which that of the client follows.
    federation: the samples, of which the public ones are known to all.
    population: what the clients bring.
    client_id: int32 `[]`.
  """
  spec, base = population.of_client(client_id)
  rates, shared_rate = schedule.rates(
    base, population.shared_learning_rate, round_, population.rounds
  )
  return api.Context(
    round=round_,
    key=jax.random.fold_in(key, client_id),
    client_id=client_id,
    spec=spec,
    rates=rates,
    shared_learning_rate=shared_rate,
    public=federation.public,
  )


def of_server(state: SimulationState, public: Any) -> api.Context:
  """What the server knows in a round.

  Args:
    state: of the simulation.
    public: the public samples, if there are any.
  """
  round_key = jax.random.fold_in(state.key, state.round)
  return api.Context(
    round=state.round,
    key=jax.random.fold_in(round_key, random_keys.SERVER),
    client_id=jnp.int32(-1),
    spec=None,
    rates=None,
    shared_learning_rate=None,
    public=public,
  )


def about_client(
  state: SimulationState,
  federation: Federation,
  population: Population,
  client_id: Any,
) -> api.Context:
  """What the server knows when it deals with one client; see `of_client`."""
  spec, _ = population.of_client(client_id)
  context = of_server(state, federation.public)
  return context._replace(client_id=client_id, spec=spec)
