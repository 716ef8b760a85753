"""Clients' states in host memory or in files, for more clients than fit.

A round moves only the participants to the devices, a block at a time. With
several processes each keeps and moves its own clients, see `owners`. The blocks
themselves wait for nobody: only what ends a round, and evaluations, cross
between processes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.simulation import divergence as divergence_lib
from quped_jax.simulation import round_in_pieces as pieces
from quped_jax.simulation import store as store_lib
from quped_jax.simulation.blueprint import Blueprint
from quped_jax.simulation.layout import DIVIDED, SAME, fetch
from quped_jax.simulation.owners import (
  Block,
  owners_of,
  positions,
  with_fillers,
)
from quped_jax.simulation.programs import STATE, Backend
from quped_jax.simulation.state import SimulationState


class _Step(NamedTuple):
  """A block, and whether it is the first or the last of its round."""

  block: Block
  is_first: bool
  is_last: bool


class Streamed(Backend):
  """Keeps clients' states in host memory or files, and moves them by blocks.

  In a state, `clients` and `divergence` are numpy arrays, written in place, and
  `members` says whose they are: with several processes, this one's.
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
    owners = owners_of(engine.layout, ids)
    # Whose samples a device needs differs from round to round: it has all of
    # its process's clients, or all there are.
    groups = owners.groups() if owners.several else None
    super().__init__(blueprint, slots, groups)
    data = self.data_specs
    self._zeros = self.shard(
      self.given(lambda *args: pieces.begin(*args)[0]), (STATE, *data), DIVIDED
    )
    self.main = self.shard(
      self.given(pieces.run_block),
      (DIVIDED, STATE, DIVIDED, *data),
      (DIVIDED, DIVIDED),
      donate=(0,),
    )
    self._present = self.shard(engine.present, (SAME, SAME, SAME), SAME)
    self._shares = owners.shares(ids)
    # Where in its cohort's arrays a client is.
    self._row = np.zeros(engine.num_clients, np.int32)
    for members in self.kept.values():
      self._row[members] = np.arange(len(members))

  def _blocks(self, shares) -> list[Block]:
    return self.owners.blocks(shares, self.slots)

  def _all_rows(self) -> list[Block]:
    """Blocks that fill all rows of all processes, with fillers."""
    return self._blocks(with_fillers(self._shares, self.ids))

  def _gather(self, state, block: Block):
    """What moves of a block's clients: (state.clients, state.divergence).

    Empty slots hold a copy of the first client's.
    """
    rows = {
      name: np.append(
        self._row[m],
        np.zeros(
          len(self.owners.own_slots(self.slots[name])) - len(m), np.int32
        ),
      )
      for name, m in block.own.items()
    }
    return tuple(
      {name: store_lib.gather(tree[name], rows[name]) for name in rows}
      for tree in (state.clients, state.divergence)
    )

  def _scatter(self, state, block: Block, new) -> None:
    for tree, part in zip((state.clients, state.divergence), new, strict=True):
      for name, m in block.own.items():
        store_lib.scatter(tree[name], self._row[m], part[name])

  def _on_device(self, state, block: Block, moved) -> SimulationState:
    members = {name: self.members(m, name) for name, m in block.slots.items()}
    clients, records = self.layout.place_own(moved)
    return state._replace(clients=clients, divergence=records, members=members)

  def _allocate(self, like, phase: str = "") -> dict[str, Any]:
    """Room for the states of our clients, of the shapes of those in `like`."""
    made = {}
    for name, members in self.kept.items():
      shapes = jax.eval_shape(
        lambda c: jax.tree.map(lambda x: x[0], c), like[name]
      )
      try:
        made[name] = self.store.allocate(shapes, len(members), name + phase)
      except ValueError:
        for earlier in made:
          self.store.remove(earlier + phase)
        raise
    return made

  def init(self, seed: int) -> SimulationState:
    self.store.remove()
    key, stored, state = self.root_key(seed), None, None
    for block in self._all_rows():
      members = {name: self.members(m, name) for name, m in block.slots.items()}
      made = self.initialize(key, members, *self.data)
      stored = stored or self._allocate(made.clients)
      records = self._new_records() if state is None else state.divergence
      state = made._replace(
        clients=stored, members=dict(self.held), divergence=records
      )
      self._scatter(state, block, fetch((made.clients, made.divergence)))
    assert state is not None
    return state

  def _new_records(self) -> dict[str, Any]:
    """The DivergenceRecords before any client has diverged."""
    return {
      name: jax.tree.map(np.array, divergence_lib.new_records(len(m)))
      for name, m in self.kept.items()
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
    # Ours are on the devices of this process, which are laid out alike.
    given, *trees = fetch((state.members, state.clients, state.divergence))
    new = state._replace(
      clients=self._allocate(state.clients),
      divergence=self._new_records(),
      members=dict(self.held),
    )
    for name, members in self.kept.items():
      order, rows = positions(given[name], members), np.arange(len(members))
      new_trees = new.clients, new.divergence
      for tree, found in zip(new_trees, trees, strict=True):
        part = store_lib.gather(found[name], order)
        store_lib.scatter(tree[name], rows, part)
    return new

  def restore(self, state: SimulationState) -> SimulationState:
    state = self._ours(state)
    if self.store.where == "disk":
      self.store.remove()
      stored = self._allocate(state.clients)
      for name, members in self.kept.items():
        rows = np.arange(len(members))
        store_lib.scatter(stored[name], rows, state.clients[name])
      state = state._replace(clients=stored)
    shared = state.server, state.round, state.monitor
    server, round_, monitor = jax.device_put(shared)
    key = jax.random.wrap_key_data(state.key)
    return self._place(
      state._replace(server=server, round=round_, monitor=monitor, key=key)
    )

  def _ours(self, state: SimulationState) -> SimulationState:
    """A state in host memory of our clients alone, without a copy if it is."""
    trees = dict(state.clients), dict(state.divergence)
    for name, members in self.kept.items():
      given = np.asarray(state.members[name])
      if not np.array_equal(given, members):
        rows = positions(given, members)
        for tree in trees:
          tree[name] = store_lib.gather(tree[name], rows)
    return state._replace(
      clients=trees[0], divergence=trees[1], members=dict(self.held)
    )

  def _participants(self, present) -> list[Block]:
    present = np.asarray(present)
    present = {name: m[present[m]] for name, m in self.ids.items()}
    return self._blocks(self.owners.shares(present))

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
    closed, metrics = self.close(shell, carries, *self.data)
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
      round_ = self.layout.place(jnp.int32(round_), SAME)
      return self._present(state.key, round_, self.data[1])

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
        done, running = (running[0], fetch(running[1])), None
        _overwrite(staged, block.own, done[0].own, done[1])
      on_device = self._on_device(state, block, staged)
      if zeros is None:
        zeros = self._zeros(on_device, *self.data)
      trained, carries = self._train(on_device, zeros if is_first else carries)
      if is_last:
        state, metrics = self._end_round(state, carries)
      if running is not None:
        done = running[0], fetch(running[1])
      if done is not None:
        self._scatter(state, *done)
      running = block, trained
      now = next(todo, None)
      staged = None if now is None else self._gather(state, now[0])
    self._scatter(state, running[0], fetch(running[1]))
    return state, metrics

  def parts(self, state: SimulationState):
    state = self._place(state)
    for block in self._blocks(self._shares):
      moved = self._gather(state, block)
      yield block.slots, self._on_device(state, block, moved)

  def begin_finetune(self, state: SimulationState) -> SimulationState:
    self.check_finetuning()
    state, after = self._place(state), None
    for block in self._all_rows():
      on_device = self._on_device(state, block, self._gather(state, block))
      frozen = {
        n: self.freeze(c, self.data[1]) for n, c in on_device.clients.items()
      }
      if after is None:
        # Frozen assignments make the states larger.
        stored = self._allocate(frozen, "_finetuning")
        after = state._replace(clients=stored)
      for name, m in block.own.items():
        new = fetch(frozen[name])
        store_lib.scatter(after.clients[name], self._row[m], new)
    assert after is not None
    for name in self.ids:
      self.store.remove(name)
    return after


def _overwrite(staged, block, newer, trained) -> None:
  """Updates what is staged of a block with the clients just trained.

  Args:
    staged: what moves of the block's clients, written in place.
    block: {cohort: the clients that are staged}.
    newer: {cohort: the clients that were trained}.
    trained: what came of these.
  """
  for name, members in block.items():
    _, at, source = np.intersect1d(members, newer[name], return_indices=True)
    if at.size:
      for tree, part in zip(staged, trained, strict=True):
        new = store_lib.gather(part[name], source)
        store_lib.scatter(tree[name], at, new)
