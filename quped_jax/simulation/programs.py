"""A simulation: the compiled programs of a federation, and their state.

What is computed is in `quped_jax.simulation.round`; here it is compiled, and
called. The state lives on the devices, or in host memory or files where there
are more clients than fit (`quped_jax.simulation.store`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.simulation import divergence as divergence_lib
from quped_jax.simulation import layout as layout_lib
from quped_jax.simulation import memory as memory_lib
from quped_jax.simulation import placement
from quped_jax.simulation import store as store_lib
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.program import Program
from quped_jax.simulation.round import Engine, Population, SimulationState
from quped_jax.simulation.schedule import Schedule

__all__ = [
  "ClientModel",
  "Population",
  "Simulation",
  "SimulationState",
  "make_simulation",
]

# Samples of all clients together that are evaluated at once.
_EVALUATED_AT_ONCE = 512

# Models of clients that a device brings out at once.
_MODELS_AT_ONCE = 8

# What is the same on all devices, and what is divided over them.
_SAME, _DIVIDED = P(), P(layout_lib.AXIS)
_SPECS: dict[str, Any] = {
  "server": _SAME,
  "clients": _DIVIDED,
  "members": _DIVIDED,
  "round": _SAME,
  "key": _SAME,
  "divergence": _DIVIDED,
  "monitor": _SAME,
}
_STATE: Any = SimulationState(**_SPECS)


class ClientModel(NamedTuple):
  """What a client would use: the primary variant of its model.

  Attributes:
    client_id: whose it is.
    cohort: which the client is in.
    params: tree of parameters, numpy arrays.
    stats: tree of statistics, likewise.
  """

  client_id: int
  cohort: str
  params: Any
  stats: Any


class Simulation(NamedTuple):
  """The compiled programs of one federation.

  Attributes:
    init: `seed -> SimulationState`.
    run_rounds: `(state, rounds) -> (state, metrics of the last)`, at least
      one round; takes the state's buffers over. The rounds go in one dispatch,
      whatever their number, unless the host loops over chunks of clients, or
      moves them. Among the metrics are the number of `participants` that were
      heard, and of those that `diverged` and were not; the others are means
      over the former, NaN if there was none. Before the very first, the first
      round is run once more, for the norms of messages alone.
    run_round: `state -> (state, metrics)`, one round.
    evaluate: `state -> {split: {variant: accuracy [clients]}}`, NaN where a
      client has no such variant or no such samples.
    primary_models: `state -> iterator of ClientModel`, in no certain order;
      of few clients at a time. With several processes each has to go through
      it.
    begin_finetune: `state -> state`, begins the fine-tuning phase; takes the
      buffers of the clients over.
    export: `state -> state` of numpy arrays, of as many slots as clients in
      each cohort and in their order, its key as numbers: the same however and
      wherever clients are run.
    restore: `state -> state`, the inverse; takes the arrays over.
    shapes: `finetuning -> state` of the shapes and types of that.
    bytes_down: that one client receives per round.
    bytes_up: that one client sends per round.
    gradients: gradient evaluations of a client per round, see
      `FederatedMethod`.
    memory: bytes that a round takes on each device, by the formula of
      `quped_jax.simulation.memory`.
    program: the compiled round, or that of a chunk or block of its clients,
      with its costs.
    compile_seconds: `() -> float`, spent on compiling all programs so far.
    layout: how clients are run.
    primary_variant: the variant that comparisons report.
    state_bytes: of the state of all clients.
    data_bytes: of samples and tables on each device.
  """

  init: Callable[[int], SimulationState]
  run_rounds: Callable[[SimulationState, int], tuple[SimulationState, Any]]
  run_round: Callable[[SimulationState], tuple[SimulationState, Any]]
  evaluate: Callable[[SimulationState], dict[str, dict[str, np.ndarray]]]
  primary_models: Callable[[SimulationState], Iterator[ClientModel]]
  begin_finetune: Callable[[SimulationState], SimulationState]
  export: Callable[[SimulationState], SimulationState]
  restore: Callable[[SimulationState], SimulationState]
  shapes: Callable[[bool], SimulationState]
  bytes_down: float
  bytes_up: float
  gradients: float | None
  memory: int
  program: Program
  compile_seconds: Callable[[], float]
  layout: Layout
  primary_variant: str
  state_bytes: int
  data_bytes: int


# The rest is for the programs themselves and for what fragments.
_USABLE_MEMORY = 0.85


def _room_for(estimate, num_clients, devices) -> int | None:
  """How many clients a device runs at once; None if it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" not in stats:
    return None
  slots = -(-num_clients // (devices or len(jax.local_devices())))
  return estimate.room_for(slots, int(_USABLE_MEMORY * stats["bytes_limit"]))


# Bytes of a local step, given a client's `own` state and its `download`.
StepBytes = Callable[..., int]


class _Sizes(NamedTuple):
  """Bytes of what a client has, receives and sends; means are over clients."""

  estimate: memory_lib.Estimate
  state: int
  down: float
  up: float


def _measure(engine: Engine, ids, federation, population, step_bytes) -> _Sizes:
  """Sizes by shapes, before anything is compiled."""
  abstract = jax.eval_shape(
    engine.init,
    jax.random.key(0),
    {name: jnp.asarray(m) for name, m in ids.items()},
    federation,
    population,
  )
  sizes = {}
  for cohort in ids:
    shapes = jax.eval_shape(
      lambda s, f, p, cohort=cohort: engine.traffic(s, f, p, cohort),
      abstract,
      federation,
      population,
    )
    sizes[cohort] = np.array([memory_lib.nbytes(tree) for tree in shapes])
  weights = [len(members) for members in ids.values()]
  own, down, up = np.average(list(sizes.values()), axis=0, weights=weights)
  most = np.max(list(sizes.values()), axis=0).astype(int)
  kept = memory_lib.nbytes(
    jax.eval_shape(
      lambda s, f, p: [engine.slots(s, f, p, c)[1] for c in ids],
      abstract,
      federation,
      population,
    )
  )
  steps = [
    step_bytes[cohort](own=int(size[0]), download=int(size[1]))
    for cohort, size in sizes.items()
    if step_bytes
  ]
  estimate = memory_lib.Estimate(
    data=memory_lib.nbytes((federation, population)),
    # What single messages leave is there twice: as it comes, and together.
    server=memory_lib.nbytes(abstract.server) + 2 * kept,
    own=int(most[0]),
    download=int(most[1]),
    message=int(most[2]),
    step=max(steps, default=0),
    kept=int(own),
  )
  return _Sizes(estimate, int(own * sum(weights)), float(down), float(up))


def _check(ids, federation, population, method, store) -> None:
  num_clients = federation.num_clients
  everyone = np.sort(np.concatenate(list(ids.values())))
  if not np.array_equal(everyone, np.arange(num_clients)):
    raise ValueError(
      f"cohorts: must hold each of the {num_clients} clients once; got "
      f"{ {name: len(m) for name, m in ids.items()} }"
    )
  count = population.participation.count
  if count is not None and not 1 <= count <= num_clients:
    raise ValueError(
      f"clients_per_round={count}: must be from 1 to {num_clients}"
    )
  if store.where != "device" and jax.process_count() > 1:
    raise ValueError(
      f"client_state={store.where!r}: must be 'device' with "
      f"{jax.process_count()} processes"
    )
  if store.where != "device" and method.collect is not None:
    raise ValueError(
      f"client_state={store.where!r}: must be 'device' with a method whose "
      "server looks at single messages"
    )


class _Programs:
  """What is compiled of an engine, however the state is kept."""

  def __init__(
    self, engine: Engine, ids, federation, population, slots, groups=None
  ):
    self.engine, self.layout, self.ids = engine, engine.layout, ids
    self.slots = slots
    federation, specs = placement.place(federation, self.layout, groups)
    self.data = federation, self.layout.place(population, _SAME)
    self.data_specs: Any = (specs, _SAME)
    self._all: list[Program] = []
    self._initialize = self.shard(
      engine.init, (_SAME, _DIVIDED, *self.data_specs), _STATE
    )
    self._evaluate = self.shard(
      engine.evaluate,
      (_STATE, *self.data_specs),
      _SAME if self.layout.across else _DIVIDED,
    )
    self._models = {
      cohort: self.shard(
        functools.partial(
          engine.primary_models, cohort=cohort, size=self._at_once(cohort)
        ),
        (_STATE, _SAME, *self.data_specs),
        _SAME if self.layout.across else _DIVIDED,
      )
      for cohort in ids
    }
    begin = engine.method.begin_finetune or (lambda client: client)
    self._freeze = self.shard(
      jax.vmap(begin), (_DIVIDED,), _DIVIDED, donate=(0,)
    )
    self._close = self.shard(
      engine.close, (_STATE, _DIVIDED, _SAME), (_STATE, _SAME), donate=(0,)
    )

  def shard(self, fn, inputs, outputs, **options) -> Program:
    """A program that each device runs on its part."""
    program = Program(self.layout.shard(fn, inputs, outputs), **options)
    self._all.append(program)
    return program

  def data_bytes(self) -> int:
    """Of samples and tables on each device."""
    shards = [x.addressable_shards[0].data for x in jax.tree.leaves(self.data)]
    return memory_lib.nbytes(shards)

  def compile_seconds(self) -> float:
    return sum(program.compile_seconds for program in self._all)

  def members(self, ids: np.ndarray, cohort: str) -> jax.Array:
    """These clients in the slots of their cohort."""
    spare = self.slots[cohort] - len(ids)
    filled = np.append(ids, np.full(spare, -1, np.int32))
    return self.layout.place(jnp.asarray(filled), _DIVIDED)

  def root_key(self, seed: int) -> jax.Array:
    return self.layout.place(jax.random.key(seed), _SAME)

  def table(self, evaluated) -> dict[str, dict[str, np.ndarray]]:
    """Accuracies by split and variant, from `(ids, {cohort: results})`."""
    table: dict[str, dict[str, np.ndarray]] = {
      split: {} for split in self.engine.splits
    }
    for ids, results in evaluated:
      for cohort, per_split in jax.device_get(results).items():
        for split, per_variant in per_split.items():
          for variant, values in per_variant.items():
            if variant not in table[split]:
              blank = np.full(self.engine.num_clients, np.nan, np.float32)
              table[split][variant] = blank
            column = table[split][variant]
            column[ids[cohort]] = values[: len(ids[cohort])]
    return table

  def shapes(self, finetuning: bool) -> SimulationState:
    """Of what `export` gives."""
    members = {name: jnp.asarray(m) for name, m in self.ids.items()}
    data = jax.eval_shape(lambda x: x, self.data)
    state = jax.eval_shape(self.engine.init, jax.random.key(0), members, *data)
    begin = self.engine.method.begin_finetune
    if finetuning and begin is not None:
      clients = {
        name: jax.eval_shape(jax.vmap(begin), cohort)
        for name, cohort in state.clients.items()
      }
      state = state._replace(clients=clients)
    return state._replace(key=jax.eval_shape(jax.random.key_data, state.key))

  def export(self, state: SimulationState) -> SimulationState:
    """The state in host memory, of as many slots as clients."""
    state = state._replace(key=jax.random.key_data(state.key))
    if self.layout.across:
      # To every process: each of them calls this.
      state = multihost_utils.process_allgather(state, tiled=True)
    state = jax.device_get(state)

    def first(tree, count):
      return jax.tree.map(lambda x: np.asarray(x)[:count], tree)

    def of_clients(trees):
      # They are in slots of their order, the last of which may be empty.
      return {name: first(trees[name], len(m)) for name, m in self.ids.items()}

    return state._replace(
      clients=of_clients(state.clients),
      divergence=of_clients(state.divergence),
      members=dict(self.ids),
    )

  def _at_once(self, cohort: str) -> int:
    """How many models of a cohort each device brings out at once."""
    return min(_MODELS_AT_ONCE, self.slots[cohort] // self.layout.devices)

  def read_models(self, state: SimulationState) -> Iterator[ClientModel]:
    """The models of the clients that the state holds."""
    for cohort, program in self._models.items():
      share = self.slots[cohort] // self.layout.devices
      for index in range(-(-share // self._at_once(cohort))):
        place = self.layout.place(jnp.int32(index), _SAME)
        ids, models = jax.device_get(program(state, place, *self.data))
        for row, client_id in enumerate(ids):
          if client_id >= 0:
            own = jax.tree.map(lambda x, row=row: x[row], models)
            yield ClientModel(int(client_id), cohort, *own)

  def check_finetuning(self) -> None:
    if self.engine.method.begin_finetune is None:
      raise ValueError(
        f"finetune_at={self.engine.schedule.finetune_at}: must be 0, since the "
        "method has no fine-tuning phase"
      )


class _Resident(_Programs):
  """The state of all clients is on the devices."""

  def __init__(self, engine: Engine, ids, federation, population, store):
    del store
    slots = {c: engine.layout.slots(len(m)) for c, m in ids.items()}
    groups = engine.layout.groups(ids.values())
    super().__init__(engine, ids, federation, population, slots, groups)
    data = self.data_specs
    self._most = population.participation.most(engine.num_clients)
    self._whole = self.shard(
      engine.rounds, (_STATE, _SAME, *data), (_STATE, _SAME), donate=(0,)
    )
    self._open = self.shard(engine.open, (_STATE, *data), _DIVIDED)
    self._chunks = {
      cohort: self.shard(
        functools.partial(engine.chunk, cohort=cohort),
        (_STATE, _DIVIDED, _DIVIDED, _SAME, *data),
        (_STATE, _DIVIDED),
        donate=(0, 1),
      )
      for cohort in ids
    }
    self.main = self._whole
    if self.layout.on_host:
      self.main = next(iter(self._chunks.values()))

  def init(self, seed: int) -> SimulationState:
    members = {name: self.members(m, name) for name, m in self.ids.items()}
    return self._initialize(self.root_key(seed), members, *self.data)

  def _place(self, state: SimulationState) -> SimulationState:
    """Moves a state made elsewhere, say on more devices, to where it runs."""
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
    parts = zip(state, _STATE, strict=True)
    return SimulationState(*(self.layout.place(*part) for part in parts))

  def run_rounds(self, state: SimulationState, rounds: int):
    state = self._place(state)
    if not self.layout.on_host:
      count = self.layout.place(jnp.int32(rounds), _SAME)
      return self._whole(state, count, *self.data)
    metrics = None
    for _ in range(rounds + (not state.monitor.calibrated)):
      state, metrics = self._round_on_host(state)
    return state, metrics

  def restore(self, state: SimulationState) -> SimulationState:
    state = state._replace(key=jax.random.wrap_key_data(state.key))
    return self._place(jax.device_put(state))

  def _round_on_host(self, state):
    carries, orders = self._open(state, *self.data)
    for cohort, slots in self.slots.items():
      most = min(self._most, slots // self.layout.devices)
      for index in range(-(-most // min(self.layout.chunk_size, most))):
        place = self.layout.place(jnp.int32(index), _SAME)
        state, carries[cohort] = self._chunks[cohort](
          state, carries[cohort], orders[cohort], place, *self.data
        )
    return self._close(state, carries, self.data[0].public)

  def evaluate(self, state: SimulationState):
    results = self._evaluate(self._place(state), *self.data)
    return self.table([(self.ids, results)])

  def primary_models(self, state: SimulationState) -> Iterator[ClientModel]:
    return self.read_models(self._place(state))

  def begin_finetune(self, state: SimulationState) -> SimulationState:
    self.check_finetuning()
    state = self._place(state)
    clients = {name: self._freeze(c) for name, c in state.clients.items()}
    return state._replace(clients=clients)


# {cohort: ids of those of its clients that are moved together}.
_Block = dict[str, np.ndarray]


class _Streamed(_Programs):
  """The state of all clients is kept elsewhere, and moved block by block.

  In a state, `clients` and `divergence` are numpy arrays, written in place.
  """

  def __init__(self, engine: Engine, ids, federation, population, store):
    participants = population.participation.most(engine.num_clients)
    size = store.block_clients(participants)
    # A block of all cohorts together, each by its share.
    slots = {
      cohort: engine.layout.slots(-(-size * len(m) // engine.num_clients))
      for cohort, m in ids.items()
    }
    # Whose samples a device needs is another matter in every round.
    super().__init__(engine, ids, federation, population, slots)
    self._store, data = store, self.data_specs
    self._zeros = self.shard(
      lambda *args: engine.open(*args)[0], (_STATE, *data), _DIVIDED
    )
    self.main = self.shard(
      engine.block,
      (_DIVIDED, _STATE, _DIVIDED, *data),
      (_DIVIDED, _DIVIDED),
      donate=(0,),
    )
    self._present = Program(engine.present)
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
    """What moves of a block's clients; that of empty slots is anyone's.

    It is (state.clients, state.divergence), of these clients.
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
    clients, records = self.layout.place(moved, _DIVIDED)
    return state._replace(clients=clients, divergence=records, members=members)

  def _allocate(self, like, phase: str = "") -> dict[str, Any]:
    """Room for all clients; `like` has theirs, or of some of them."""
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
      made = self._initialize(key, members, *self.data)
      stored = stored or self._allocate(made.clients)
      records = self._nobody() if state is None else state.divergence
      members = dict(self.ids)
      state = made._replace(clients=stored, members=members, divergence=records)
      moved = jax.device_get((made.clients, made.divergence))
      self._scatter(state, block, moved)
    assert state is not None
    return state

  def _nobody(self) -> dict[str, Any]:
    """The DivergenceRecord of clients of which nobody has diverged."""
    return {
      name: jax.tree.map(np.array, divergence_lib.new_records(len(m)))
      for name, m in self.ids.items()
    }

  def _place(self, state: SimulationState) -> SimulationState:
    """Moves a state that was made elsewhere to where it is kept."""
    names = "server", "round", "key", "monitor"
    shared = {name: getattr(state, name) for name in names}
    if self.layout.mesh is not None:
      state = state._replace(**self.layout.place(shared, _SAME))
    elif len(jnp.asarray(state.round).devices()) > 1:
      one = jax.local_devices()[0]
      state = state._replace(**jax.device_put(shared, one))
    if isinstance(next(iter(state.members.values())), np.ndarray):
      return state
    given = jax.device_get((state.clients, state.divergence))
    new = state._replace(
      clients=self._allocate(state.clients),
      divergence=self._nobody(),
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

  def run_rounds(self, state: SimulationState, rounds: int):
    """While the devices run a block, the next is brought together."""
    state, first = self._place(state), int(state.round)
    population = self.data[1]
    # The first of all is run once more, beforehand.
    order = [first] * (not state.monitor.calibrated)
    order += range(first, first + rounds)

    def draw(index):
      # One round ahead: behind a running block, the host would wait for it.
      return self._present(state.key, jnp.int32(order[index]), population)

    def plan():
      drawn = draw(0)
      for index in range(len(order)):
        blocks = self._participants(drawn)
        if index + 1 < len(order):
          drawn = draw(index + 1)
        for block in blocks:
          yield block, block is blocks[0], block is blocks[-1]

    todo = iter(plan())
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
      carries = zeros if is_first else carries
      trained, carries = self.main(
        (on_device.clients, on_device.divergence),
        on_device._replace(clients={}, divergence={}),
        carries,
        *self.data,
      )
      if is_last:
        shell = state._replace(clients={}, members={}, divergence={})
        closed, metrics = self._close(shell, carries, self.data[0].public)
        state = closed._replace(
          clients=state.clients,
          members=state.members,
          divergence=state.divergence,
        )
      if running is not None:
        done = running[0], jax.device_get(running[1])
      if done is not None:
        self._scatter(state, *done)
      running = block, trained
      now = next(todo, None)
      staged = None if now is None else self._gather(state, now[0])
    self._scatter(state, running[0], jax.device_get(running[1]))
    return state, metrics

  def evaluate(self, state: SimulationState):
    state, results = self._place(state), []
    for block in self._blocks(self.ids):
      on_device = self._on_device(state, block, self._gather(state, block))
      results.append((block, self._evaluate(on_device, *self.data)))
      # At most two blocks are on the devices.
      jax.block_until_ready([r for _, r in results[:-1]][-1:])
    return self.table(results)

  def primary_models(self, state: SimulationState) -> Iterator[ClientModel]:
    state = self._place(state)
    for block in self._blocks(self.ids):
      yield from self.read_models(
        self._on_device(state, block, self._gather(state, block))
      )

  def begin_finetune(self, state: SimulationState) -> SimulationState:
    self.check_finetuning()
    state, after = self._place(state), None
    for block in self._blocks(self.ids):
      on_device = self._on_device(state, block, self._gather(state, block))
      frozen = {n: self._freeze(c) for n, c in on_device.clients.items()}
      if after is None:
        # Frozen assignments are more state.
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
  """Puts what moves of clients that are in both blocks into the staged."""
  for name, members in block.items():
    _, at, source = np.intersect1d(members, newer[name], return_indices=True)
    if at.size:
      for tree, part in zip(staged, trained, strict=True):
        new = store_lib.gather(part[name], source)
        store_lib.scatter(tree[name], at, new)


def make_simulation(
  method: api.FederatedMethod,
  federation: Federation,
  population: Population,
  cohorts: Mapping[str, np.ndarray],
  *,
  schedule: Schedule | None = None,
  strategy: str = "auto",
  chunk_size: int = 1,
  devices: int = 1,
  step_bytes: Mapping[str, StepBytes] | None = None,
  store: store_lib.Store | None = None,
  max_message_norm: float = 0.0,
) -> Simulation:
  """Makes the programs that simulate a federation.

  Args:
    method: what clients and server do.
    federation: who holds which samples.
    population: what the clients bring, and who takes part when.
    cohorts: {name: ids of its clients}; each client is in one.
    schedule: of the rates; constant but for the strength's ramp by default.
    strategy: "auto", "vmap", "chunks" or "dispatch", see `resolve_layout`.
    chunk_size: of "chunks" and "dispatch".
    devices: over how many devices the clients are divided; 0 for all.
    step_bytes: by cohort, how many bytes a client's local step needs, given
      `own` and `download`, see `memory.step_bytes`; None for 0.
    store: where the clients' state is kept; on the devices if None.
    max_message_norm: a client whose message is longer has diverged; 0 for 100
      times the median of earlier rounds, see `quped_jax.simulation.divergence`.

  Returns:
    The simulation; nothing is compiled yet.

  Raises:
    ValueError: cohorts that do not hold every client once, or an argument out
      of range.
  """
  schedule, store = schedule or Schedule(), store or store_lib.Store()
  ids = {name: np.asarray(m, np.int32) for name, m in cohorts.items()}
  _check(ids, federation, population, method, store)
  num_clients = federation.num_clients
  participants = population.participation.most(num_clients)
  engine = Engine(
    method,
    schedule,
    {name: len(members) for name, members in ids.items()},
    Layout(None, 1),
    splits=(
      ("validation", "test") if federation.validation.max_count else ("test",)
    ),
    slots_are_participants=store.where != "device",
    max_message_norm=max_message_norm,
  )
  sizes = _measure(engine, ids, federation, population, step_bytes)
  # A batched soft quantizer gains nothing: its loops run for all if for one.
  full = np.asarray(population.spec.bits) >= codebook_lib.FULL_PRECISION
  small = step_bytes is not None and np.all(full)
  at_once = participants
  if store.where != "device":
    at_once = store.block_clients(participants)
  layout = layout_lib.resolve_layout(
    strategy,
    chunk_size,
    at_once,
    devices=devices,
    room_for=_room_for(
      sizes.estimate,
      num_clients if store.where == "device" else at_once,
      min(devices, at_once),
    ),
    client_bytes=sizes.estimate.client if small else None,
  )
  engine = dataclasses.replace(
    engine,
    layout=layout,
    calibrate=not max_message_norm and sizes.up > 0,
    # What evaluation holds at once does not grow with the clients.
    evaluated_at_once=max(_EVALUATED_AT_ONCE // layout.chunk_size, 16),
  )
  kind = _Resident if store.where == "device" else _Streamed
  programs = kind(engine, ids, federation, population, store)
  data_bytes = programs.data_bytes()
  estimate = sizes.estimate._replace(data=data_bytes)
  slots = sum(programs.slots.values()) // layout.devices
  return Simulation(
    init=programs.init,
    run_rounds=programs.run_rounds,
    run_round=lambda state: programs.run_rounds(state, 1),
    evaluate=programs.evaluate,
    primary_models=programs.primary_models,
    begin_finetune=programs.begin_finetune,
    export=programs.export,
    restore=programs.restore,
    shapes=programs.shapes,
    bytes_down=sizes.down,
    bytes_up=sizes.up,
    gradients=method.gradients,
    memory=estimate.total(slots, layout.chunk_size),
    program=programs.main,
    compile_seconds=programs.compile_seconds,
    layout=layout,
    primary_variant=method.primary_variant,
    state_bytes=sizes.state,
    data_bytes=data_bytes,
  )
