"""Clients' states in host memory or in files, for more clients than fit.

A round moves only the participants to the devices, a block at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.simulation import divergence as divergence_lib
from quped_jax.simulation import store as store_lib
from quped_jax.simulation.layout import DIVIDED, SAME
from quped_jax.simulation.program import Program
from quped_jax.simulation.programs import STATE, Backend, Blueprint
from quped_jax.simulation.state import SimulationState

# {cohort: ids of those of its clients that are moved together}.
_Block = Mapping[str, np.ndarray]


class _Step(NamedTuple):
  """A block, and whether it is the first or the last of its round."""

  block: _Block
  is_first: bool
  is_last: bool


class Streamed(Backend):
  """Keeps clients' states in host memory or files, and moves them by blocks.

  In a state, `clients` and `divergence` are numpy arrays, written in place.
  """

  streams = True

  def __init__(self, blueprint: Blueprint):
    engine, ids = blueprint.engine, blueprint.ids
    participants = blueprint.population.participation.most(engine.num_clients)
    size = blueprint.store.block_clients(participants)
    # A block has clients of all cohorts, by their shares of the federation.
    slots = {
      cohort: engine.layout.slots(-(-size * len(m) // engine.num_clients))
      for cohort, m in ids.items()
    }
    # All samples on each device: whose it needs differs from round to round.
    super().__init__(blueprint, slots)
    self._store, data = blueprint.store, self.data_specs
    self._zeros = self.shard(
      lambda *args: engine.open(*args)[0], (STATE, *data), DIVIDED
    )
    self.main = self.shard(
      engine.block,
      (DIVIDED, STATE, DIVIDED, *data),
      (DIVIDED, DIVIDED),
      donate=(0,),
    )
    self._present = Program(
      engine.present, deterministic=blueprint.deterministic
    )
    # Where in its cohort's arrays a client is.
    self._row = np.zeros(engine.num_clients, np.int32)
    for members in ids.values():
      self._row[members] = np.arange(len(members))

  def _blocks(self, ids: _Block) -> list[_Block]:
    """Divides clients into blocks, at least one."""
    count = max(1, *(-(-len(m) // self.slots[name]) for name, m in ids.items()))
    return [
      {
        name: m[i * self.slots[name] : (i + 1) * self.slots[name]]
        for name, m in ids.items()
      }
      for i in range(count)
    ]

  def _gather(self, state, block: _Block):
    """What moves of a block's clients: (state.clients, state.divergence).

    Empty slots hold a copy of the first client's.
    """
    rows = {
      name: np.append(
        self._row[m], np.zeros(self.slots[name] - len(m), np.int32)
      )
      for name, m in block.items()
    }
    return tuple(
      {name: store_lib.gather(tree[name], rows[name]) for name in block}
      for tree in (state.clients, state.divergence)
    )

  def _scatter(self, state, block: _Block, new) -> None:
    for tree, part in zip((state.clients, state.divergence), new, strict=True):
      for name, m in block.items():
        store_lib.scatter(tree[name], self._row[m], part[name])

  def _on_device(self, state, block: _Block, moved) -> SimulationState:
    members = {name: self.members(m, name) for name, m in block.items()}
    clients, records = self.layout.place(moved, DIVIDED)
    return state._replace(clients=clients, divergence=records, members=members)

  def _allocate(self, like, phase: str = "") -> dict[str, Any]:
    """Room for the states of all clients, of the shapes of those in `like`."""
    made = {}
    for name, members in self.ids.items():
      shapes = jax.eval_shape(
        lambda c: jax.tree.map(lambda x: x[0], c), like[name]
      )
      try:
        made[name] = self._store.allocate(shapes, len(members), name + phase)
      except ValueError:
        for earlier in made:
          self._store.remove(earlier + phase)
        raise
    return made

  def init(self, seed: int) -> SimulationState:
    self._store.remove()
    key, stored, state = self.root_key(seed), None, None
    for block in self._blocks(self.ids):
      members = {name: self.members(m, name) for name, m in block.items()}
      made = self.initialize(key, members, *self.data)
      stored = stored or self._allocate(made.clients)
      records = self._new_records() if state is None else state.divergence
      members = dict(self.ids)
      state = made._replace(clients=stored, members=members, divergence=records)
      moved = jax.device_get((made.clients, made.divergence))
      self._scatter(state, block, moved)
    assert state is not None
    return state

  def _new_records(self) -> dict[str, Any]:
    """The DivergenceRecords before any client has diverged."""
    return {
      name: jax.tree.map(np.array, divergence_lib.new_records(len(m)))
      for name, m in self.ids.items()
    }

  def _place(self, state: SimulationState) -> SimulationState:
    """Moves a state that was made elsewhere to where it is kept."""
    names = "server", "round", "key", "monitor"
    shared = {name: getattr(state, name) for name in names}
    if self.layout.mesh is not None:
      state = state._replace(**self.layout.place(shared, SAME))
    elif len(jnp.asarray(state.round).devices()) > 1:
      one = jax.local_devices()[0]
      state = state._replace(**jax.device_put(shared, one))
    if isinstance(next(iter(state.members.values())), np.ndarray):
      return state
    given = jax.device_get((state.clients, state.divergence))
    new = state._replace(
      clients=self._allocate(state.clients),
      divergence=self._new_records(),
      members=dict(self.ids),
    )
    for name, members in self.ids.items():
      order = np.argsort(np.asarray(state.members[name]), kind="stable")
      order = order[-len(members) :][np.argsort(np.argsort(members))]
      found = tuple(
        {name: store_lib.gather(tree[name], order)} for tree in given
      )
      self._scatter(new, {name: members}, found)
    return new

  def restore(self, state: SimulationState) -> SimulationState:
    if self._store.where == "disk":
      self._store.remove()
      stored = self._allocate(state.clients)
      for name, members in self.ids.items():
        rows = np.arange(len(members))
        store_lib.scatter(stored[name], rows, state.clients[name])
      state = state._replace(clients=stored)
    shared = state.server, state.round, state.monitor
    server, round_, monitor = jax.device_put(shared)
    key = jax.random.wrap_key_data(state.key)
    return self._place(
      state._replace(server=server, round=round_, monitor=monitor, key=key)
    )

  def _participants(self, present) -> list[_Block]:
    present = np.asarray(present)
    return self._blocks({name: m[present[m]] for name, m in self.ids.items()})

  def _plan(
    self, rounds: Sequence[int], draw: Callable[[int], Any]
  ) -> Iterator[_Step]:
    """All blocks of some rounds; `draw` says who takes part in a round."""
    drawn = draw(rounds[0])
    for index in range(len(rounds)):
      blocks = self._participants(drawn)
      if index + 1 < len(rounds):
        # One round ahead: behind a running block, the host would wait for it.
        drawn = draw(rounds[index + 1])
      for block in blocks:
        yield _Step(block, block is blocks[0], block is blocks[-1])

  def _train(self, on_device: SimulationState, carries):
    """Has a block of clients run: (what moves of them, carries)."""
    return self.main(
      (on_device.clients, on_device.divergence),
      on_device._replace(clients={}, divergence={}),
      carries,
      *self.data,
    )

  def _end_round(self, state: SimulationState, carries):
    """Has the server step: (state, metrics)."""
    shell = state._replace(clients={}, members={}, divergence={})
    closed, metrics = self.close(shell, carries, self.data[0].public)
    state = closed._replace(
      clients=state.clients, members=state.members, divergence=state.divergence
    )
    return state, metrics

  def run_rounds(self, state: SimulationState, rounds: int):
    """While the devices run a block, the host brings the next one together."""
    state, first = self._place(state), int(state.round)
    # The very first is run once more, beforehand.
    order = [first] * (not state.monitor.calibrated)
    order += range(first, first + rounds)

    def draw(round_):
      # The key of the newest state: programs take over those of earlier ones.
      return self._present(state.key, jnp.int32(round_), self.data[1])

    todo = self._plan(order, draw)
    now: Any = next(todo)
    staged = self._gather(state, now[0])
    running: Any = None  # A block and what the devices make of it.
    zeros = carries = metrics = None
    while now is not None:
      block, is_first, is_last = now
      done = None
      if is_first and running is not None:
        # Some of its clients may take part again.
        done, running = (running[0], jax.device_get(running[1])), None
        _overwrite(staged, block, *done)
      on_device = self._on_device(state, block, staged)
      if zeros is None:
        zeros = self._zeros(on_device, *self.data)
      trained, carries = self._train(on_device, zeros if is_first else carries)
      if is_last:
        state, metrics = self._end_round(state, carries)
      if running is not None:
        done = running[0], jax.device_get(running[1])
      if done is not None:
        self._scatter(state, *done)
      running = block, trained
      now = next(todo, None)
      staged = None if now is None else self._gather(state, now[0])
    self._scatter(state, running[0], jax.device_get(running[1]))
    return state, metrics

  def parts(self, state: SimulationState):
    state = self._place(state)
    for block in self._blocks(self.ids):
      yield block, self._on_device(state, block, self._gather(state, block))

  def begin_finetune(self, state: SimulationState) -> SimulationState:
    self.check_finetuning()
    state, after = self._place(state), None
    for block in self._blocks(self.ids):
      on_device = self._on_device(state, block, self._gather(state, block))
      frozen = {n: self.freeze(c) for n, c in on_device.clients.items()}
      if after is None:
        # Frozen assignments make the states larger.
        stored = self._allocate(frozen, "_finetuning")
        after = state._replace(clients=stored)
      for name, m in block.items():
        new = jax.device_get(frozen[name])
        store_lib.scatter(after.clients[name], self._row[m], new)
    assert after is not None
    for name in self.ids:
      self._store.remove(name)
    return after


def _overwrite(staged, block: _Block, newer: _Block, trained) -> None:
  """Updates what is staged of a block with the clients just trained.

  Args:
    staged: what moves of the block's clients, written in place.
    block: the clients that are staged.
    newer: the clients that were trained.
    trained: what came of these.
  """
  for name, members in block.items():
    _, at, source = np.intersect1d(members, newer[name], return_indices=True)
    if at.size:
      for tree, part in zip(staged, trained, strict=True):
        new = store_lib.gather(part[name], source)
        store_lib.scatter(tree[name], at, new)
