"""All clients' states on the devices, which run rounds without the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.simulation import round_in_pieces as pieces
from quped_jax.simulation import store as store_lib
from quped_jax.simulation.blueprint import Blueprint
from quped_jax.simulation.layout import DIVIDED, SAME
from quped_jax.simulation.owners import positions
from quped_jax.simulation.programs import STATE, Backend
from quped_jax.simulation.round import Engine
from quped_jax.simulation.state import SimulationState


class Resident(Backend):
  """Keeps the states of all clients on the devices."""

  streams = False

  def __init__(self, blueprint: Blueprint):
    engine, ids = blueprint.engine, blueprint.ids
    slots = {c: engine.layout.slots(len(m)) for c, m in ids.items()}
    super().__init__(blueprint, slots, engine.layout.groups(ids.values()))
    data = self.data_specs
    self._most = blueprint.population.participation.most(engine.num_clients)
    self._whole = self.shard(
      self.given(Engine.rounds),
      (STATE, SAME, *data),
      (STATE, SAME),
      donate=(0,),
    )
    self._open = self.shard(self.given(pieces.begin), (STATE, *data), DIVIDED)
    self._chunks = {
      cohort: self.shard(
        self.given(functools.partial(pieces.run_chunk, cohort=cohort)),
        (STATE, DIVIDED, DIVIDED, SAME, *data),
        (STATE, DIVIDED),
        donate=(0, 1),
      )
      for cohort in ids
    }
    self.main = self._whole
    if self.layout.on_host:
      self.main = next(iter(self._chunks.values()))

  def init(self, seed: int) -> SimulationState:
    members = {name: self.members(m, name) for name, m in self.ids.items()}
    return self.initialize(self.root_key(seed), members, *self.data)

  def _place(self, state: SimulationState) -> SimulationState:
    """Moves a state that was made elsewhere, as on more devices, to ours."""
    if self.layout.across:
      return self._divide(state)
    members, clients = dict(state.members), dict(state.clients)
    records = dict(state.divergence)
    for cohort, ids in self.ids.items():
      slots = self.slots[cohort]
      if members[cohort].shape[0] == slots:
        continue
      members[cohort] = self.members(ids, cohort)
      source = np.minimum(np.arange(slots), len(ids) - 1)
      clients[cohort], records[cohort] = jax.tree.map(
        lambda x, source=source: x[source], (clients[cohort], records[cohort])
      )
    state = state._replace(members=members, clients=clients, divergence=records)
    if self.layout.mesh is None:
      if len(jnp.asarray(state.round).devices()) > 1:
        return jax.device_put(state, jax.local_devices()[0])
      return state
    parts = zip(state, STATE, strict=True)
    return SimulationState(*(self.layout.place(*part) for part in parts))

  def _divide(self, state: SimulationState) -> SimulationState:
    """Likewise with several processes, each of which holds its clients."""
    if not isinstance(next(iter(state.members.values())), np.ndarray):
      return state  # All devices are in use: there is no other layout.
    given_trees = state.clients, state.divergence
    members, trees = {}, ({}, {})
    for name, ids in self.ids.items():
      members[name] = self.members(ids, name)
      own = self.owners.own_slots(self.slots[name])
      filled = np.append(ids, np.full(self.slots[name] - len(ids), -1))[own]
      rows = positions(np.asarray(state.members[name]), filled)
      for new, given in zip(trees, given_trees, strict=True):
        new[name] = self.layout.place_own(store_lib.gather(given[name], rows))
    names = "server", "round", "key", "monitor"
    shared = {name: getattr(state, name) for name in names}
    return state._replace(
      clients=trees[0],
      divergence=trees[1],
      members=members,
      **self.layout.place(shared, SAME),
    )

  def run_rounds(self, state: SimulationState, rounds: int):
    state = self._place(state)
    if not self.layout.on_host:
      count = self.layout.place(jnp.int32(rounds), SAME)
      return self._whole(state, count, *self.data)
    metrics = None
    for _ in range(rounds + (not state.monitor.calibrated)):
      state, metrics = self._round_on_host(state)
    return state, metrics

  def restore(self, state: SimulationState) -> SimulationState:
    state = state._replace(key=jax.random.wrap_key_data(state.key))
    if self.layout.across:
      return self._place(state)
    return self._place(jax.device_put(state))

  def _round_on_host(self, state):
    """A round whose loop over chunks of clients is the host's."""
    carries, orders = self._open(state, *self.data)
    for cohort, slots in self.slots.items():
      most = min(self._most, slots // self.layout.devices)
      for index in range(-(-most // min(self.layout.chunk_size, most))):
        place = self.layout.place(jnp.int32(index), SAME)
        state, carries[cohort] = self._chunks[cohort](
          state, carries[cohort], orders[cohort], place, *self.data
        )
    return self.close(state, carries, *self.data)

  def parts(self, state: SimulationState):
    yield self.ids, self._place(state)

  def begin_finetune(self, state: SimulationState) -> SimulationState:
    self.check_finetuning()
    state = self._place(state)
    clients = {
      name: self.freeze(c, self.data[1]) for name, c in state.clients.items()
    }
    return state._replace(clients=clients)
