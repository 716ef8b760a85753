"""A round in pieces, for a loop on the host.

Sums that are not yet those of all devices have a leading axis `[devices]`
between the pieces.
"""

import jax
import jax.numpy as jnp

from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation.round import Engine


def begin(engine: Engine, state, federation, population):
  """Begins a round.

  Returns:
    {cohort: carry before anyone was heard}; and {cohort: who takes part}:
    each device's positions and their number, or None for everyone.
  """
  orders = {}
  for cohort in engine.sizes:
    chosen = engine.choose(state, population, cohort)
    orders[cohort] = (
      None if chosen is None else (chosen.positions, chosen.count[None])
    )
  zeros = engine.zeros(state, federation, population)
  return _on_devices(zeros), orders


def run_chunk(
  engine: Engine, state, carry, order, index, federation, population, cohort
):
  """One chunk of a cohort's clients: (state, carry)."""
  step = engine.client_step(state, federation, population, cohort)
  members, (heard, parts) = state.members[cohort], carry
  chosen = None
  if order is not None:
    most = min(
      population.participation.most(engine.num_clients), members.shape[0]
    )
    chosen = clients_lib.Chosen(order[0], order[1][0], most)
  chosen, size, _ = clients_lib.divide(
    members.shape[0], engine.layout.chunk_size, chosen
  )
  (clients, parts, records), part = clients_lib.run_chunk(
    step,
    members,
    (state.clients[cohort], parts, state.divergence[cohort]),
    index,
    size=size,
    chosen=chosen,
  )
  part = jax.tree.map(lambda x: x[None], part)
  heard = jax.tree.map(jnp.add, heard, part)
  clients = {**state.clients, cohort: clients}
  records = {**state.divergence, cohort: records}
  return state._replace(clients=clients, divergence=records), (heard, parts)


def run_block(engine: Engine, moved, state, carries, federation, population):
  """Runs a block of participants, whose states are moved: (moved, carries).

  The state holds these clients alone, and `moved` are their states and
  DivergenceRecords. What a method collects of single messages is lost between
  blocks, so such methods cannot be run in blocks.
  """
  state = state._replace(clients=moved[0], divergence=moved[1])
  zeros = engine.zeros(state, federation, population)
  state, new = engine.run(state, zeros, federation, population)
  carries = jax.tree.map(jnp.add, carries, _on_devices(new))
  return (state.clients, state.divergence), carries


def finish(engine: Engine, state, carries, federation, population):
  """Ends a round that was begun with `begin`: (state, metrics)."""
  del population
  return engine.end(
    state,
    {
      name: (jax.tree.map(lambda x: x[0], heard), parts)
      for name, (heard, parts) in carries.items()
    },
    federation.public,
  )


def _on_devices(carries):
  """Gives each device's sums a leading axis over devices."""
  return {
    name: (jax.tree.map(lambda x: x[None], heard), parts)
    for name, (heard, parts) in carries.items()
  }
