"""What every backend has: a federation's programs, and how they are compiled.

What is computed is in `quped_jax.simulation.round` and `evaluate`, as pure
functions of a state. A backend compiles them, calls them, and decides where the
clients' states are in between: on the devices (`resident.py`), or in host
memory or files where there are more clients than fit (`streamed.py`).
"""

import abc
import copy
import functools
from collections.abc import (
  Callable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.data.federation import Federation
from quped_jax.simulation import client_tables, placement
from quped_jax.simulation import memory as memory_lib
from quped_jax.simulation import round_in_pieces as pieces
from quped_jax.simulation.blueprint import Blueprint
from quped_jax.simulation.client_tables import Measures, Scores
from quped_jax.simulation.layout import DIVIDED, SAME, fetch
from quped_jax.simulation.owners import owners_of, with_fillers
from quped_jax.simulation.program import Program
from quped_jax.simulation.round import Engine
from quped_jax.simulation.state import Population, SimulationState
from quped_jax.simulation.store import Store

# Models of clients that a device computes at once.
_MODELS_AT_ONCE = 8

# How a state on the devices is divided over them.
_SPECS: dict[str, Any] = {
  "server": SAME,
  "clients": DIVIDED,
  "members": DIVIDED,
  "round": SAME,
  "key": SAME,
  "divergence": DIVIDED,
  "monitor": SAME,
}
STATE: Any = SimulationState(**_SPECS)


class ClientModel(NamedTuple):
  """What a client would use: the primary variant of its model.

  Attributes:
    client_id: the client.
    cohort: the client's.
    params: tree of parameters, numpy arrays.
    stats: tree of statistics, likewise.
  """

  client_id: int
  cohort: str
  params: Any
  stats: Any


def _freeze(engine: Engine, clients: Any, population: Population) -> Any:
  """Has the clients of a cohort begin their fine-tuning phase."""
  del population
  assert engine.method.begin_finetune is not None
  return jax.vmap(engine.method.begin_finetune)(clients)


class Backend(abc.ABC):
  """The programs of a federation, and where its clients' states are kept.

  A backend subclasses this and provides what is abstract here: `init`,
  `run_rounds`, `parts`, `restore` and `begin_finetune`. Its `__init__` takes a
  Blueprint, calls this one, makes the programs of its rounds with `shard` out
  of the engine's functions, to which `given` gives the engine, and sets `main`.
  All that it knows of data is in `data` and `store`, which `over` replaces in a
  copy. It is entered in `BACKENDS` of
  `quped_jax.simulation.simulation`.

  It is free to keep `clients` and `divergence` of a state where it likes, as
  long as `export` can read them: arrays `[slots, ...]`, on devices or in host
  memory, in the order of `ids`. The other fields are on the devices. A method
  that takes a state also accepts one that another backend, or the same one with
  another layout, has made, and may take over its buffers where it says so.

  Whatever the backend, the same states come of the same seed, but for the
  order in which sums are added up. The very first round is preceded by one for
  the norms of messages alone, which the backend has to run: as long as
  `state.monitor.calibrated` is False, ending a round begins none.

  Attributes:
    streams: whether a state on the devices holds only some of the clients, who
      are moved there to take part in a round or to be evaluated.
    main: the program whose costs are reported: that of the rounds, or of a
      chunk or block of its clients.
    engine: see Blueprint, as `evaluation` and `ids`.
    layout: the engine's.
    owners: which process keeps which clients.
    kept: {cohort: ids of the clients whose states this process keeps}: its own,
      or the cohort's first if it has none, see `owners`.
    held: {cohort: ids likewise, -1 in place of such a first client}.
    slots: {cohort: slots of a state on the devices, over all of them}.
    data: the federation and the population, on the devices: the last arguments
      of most programs.
    data_specs: their specs for `shard`.
    initialize: the program of `Engine.init`.
    close: that of `round_in_pieces.finish`, which takes over the buffers of the
      state.
    freeze: that of the method's `begin_finetune`, over clients `[slots, ...]`,
      whose buffers it takes over, and the population.
  """

  streams: ClassVar[bool]
  main: Program

  def __init__(
    self,
    blueprint: Blueprint,
    slots: dict[str, int],
    groups: Sequence[np.ndarray] | None = None,
  ):
    """Moves the samples to the devices; compiles nothing yet.

    Args:
      blueprint: what all is made of.
      slots: {cohort: slots of a state on the devices}, multiples of their
        number.
      groups: for each device, the ids of the clients whose samples it needs;
        None for all samples on each, see `placement.place`.
    """
    engine, self.evaluation, self.ids = blueprint[:3]
    self.engine, self.layout, self.slots = engine, engine.layout, slots
    self._deterministic, self.store = blueprint.deterministic, blueprint.store
    self.owners = owners_of(self.layout, self.ids)
    shares = self.owners.shares(self.ids)
    self.kept = self.owners.own(with_fillers(shares, self.ids))
    # Whose their rows are: a filler's is nobody's.
    self.held = {
      name: m if m.size else np.full(1, -1, np.int32)
      for name, m in self.owners.own(shares).items()
    }
    self._places = placement.Places(
      [blueprint.federation, *blueprint.others], self.layout, groups
    )
    self.data, self.data_specs = self._places.place(
      blueprint.federation, blueprint.population
    )
    self._all: list[Program] = []
    self._compiled_before = 0.0
    self.initialize = self.shard(
      self.given(Engine.init), (SAME, DIVIDED, *self.data_specs), STATE
    )
    self.close = self.shard(
      self.given(pieces.finish),
      (STATE, DIVIDED, *self.data_specs),
      (STATE, SAME),
      donate=(0,),
    )
    self.freeze = self.shard(
      self.given(_freeze), (DIVIDED, SAME), DIVIDED, donate=(0,)
    )
    readable = SAME if self.layout.across else DIVIDED
    self._evaluate = self.shard(
      self.given(self.evaluation.evaluate), (STATE, *self.data_specs), readable
    )
    self._measure = self.shard(
      self.given(self.evaluation.measure), (STATE, *self.data_specs), readable
    )
    self._models = {
      cohort: self.shard(
        self.given(
          functools.partial(
            self.evaluation.primary_models,
            cohort=cohort,
            size=self._at_once(cohort),
          )
        ),
        (STATE, SAME, *self.data_specs),
        readable,
      )
      for cohort in self.ids
    }

  # What a backend provides.

  @abc.abstractmethod
  def init(self, seed: int) -> SimulationState:
    """The state before the first round, from `initialize`."""

  @abc.abstractmethod
  def run_rounds(
    self, state: SimulationState, rounds: int
  ) -> tuple[SimulationState, Any]:
    """Runs rounds, at least one, and takes over the state's buffers.

    Returns:
      The state, and the metrics of the last round.
    """

  @abc.abstractmethod
  def parts(
    self, state: SimulationState
  ) -> Iterator[tuple[Mapping[str, np.ndarray], SimulationState]]:
    """All clients, part by part, on the devices: to be evaluated, or read.

    Yields:
      {cohort: ids of the clients of this part, in the order of their slots, -1
      in those that are empty, of which the last may be left out}; and a state
      whose `slots` hold them. Each client is in one part.
    """

  @abc.abstractmethod
  def restore(self, state: SimulationState) -> SimulationState:
    """The inverse of `export`; takes over the arrays.

    With several processes, the clients may be those in `kept`, or all.
    """

  @abc.abstractmethod
  def begin_finetune(self, state: SimulationState) -> SimulationState:
    """Has every client `freeze`; takes over the buffers of the clients.

    It begins with `check_finetuning`.
    """

  # What every backend has.

  def template(self) -> Self:
    """The same programs without data, from which come those of `over`."""
    bare = copy.copy(self)
    bare.data = jax.eval_shape(lambda x: x, self.data)
    return bare

  def over(
    self, federation: Federation, population: Population, store: Store
  ) -> Self:
    """The same programs, given other data; compiles nothing.

    Args:
      federation: one of the blueprint's `others`.
      population: what its clients bring.
      store: where their states are kept.

    Raises:
      ValueError: data of another shape.
    """
    other = copy.copy(self)
    other.data, _ = self._places.place(federation, population)
    other.store = store
    other._compiled_before = sum(x.compile_seconds for x in self._all)
    shapes, given = (jax.eval_shape(lambda x: x, x.data) for x in (self, other))
    if shapes != given:
      raise ValueError(
        "federation: must have the shape of those that the programs are for"
      )
    return other

  def shard(self, fn, inputs, outputs, **options) -> Program:
    """A program that each device runs on its part; see `Layout.shard`."""
    program = Program(
      self.layout.shard(fn, inputs, outputs),
      deterministic=self._deterministic,
      **options,
    )
    self._all.append(program)
    return program

  def given(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn(engine, ...)`, with the engine as the last argument's values say.

    Args:
      fn: a function whose last argument is the population.
    """
    engine = self.engine
    return lambda *args: fn(engine.given(args[-1]), *args)

  def members(self, ids: np.ndarray, cohort: str) -> jax.Array:
    """These clients in the slots of their cohort, -1 in those left over."""
    spare = self.slots[cohort] - len(ids)
    filled = np.append(ids, np.full(spare, -1, np.int32))
    return self.layout.place(jnp.asarray(filled), DIVIDED)

  def root_key(self, seed: int) -> jax.Array:
    """The key that a seed gives, on the devices."""
    return self.layout.place(jax.random.key(seed), SAME)

  def check_finetuning(self) -> None:
    """Raises a ValueError if the method has no fine-tuning phase."""
    if self.engine.method.begin_finetune is None:
      raise ValueError(
        f"finetune_at={self.engine.schedule.finetune_at}: must be 0, since the "
        "method has no fine-tuning phase"
      )

  def data_bytes(self) -> int:
    """Bytes of samples and tables on each device."""
    shards = [x.addressable_shards[0].data for x in jax.tree.leaves(self.data)]
    return memory_lib.nbytes(shards)

  def compile_seconds(self) -> float:
    """Spent on compiling all programs, since they were given this data."""
    spent = sum(program.compile_seconds for program in self._all)
    return spent - self._compiled_before

  def evaluate(self, state: SimulationState) -> Scores:
    """{split: {variant: score `[clients]`}}, see `Simulation`."""
    return self.table(self._each_part(self._evaluate, state))

  def measure(self, state: SimulationState) -> tuple[Scores, Measures]:
    """The same and the measures, if there are any, see `Simulation`."""
    if self.evaluation.measures is None:
      return self.evaluate(state), {}
    return self.measured(self._each_part(self._measure, state))

  def _each_part(
    self, program: Program, state: SimulationState
  ) -> list[tuple[Mapping[str, np.ndarray], Any]]:
    """What a program finds of all clients, see `client_tables`."""
    results = []
    for ids, part in self.parts(state):
      results.append((ids, program(part, *self.data)))
      # At most two parts are on the devices.
      jax.block_until_ready([r for _, r in results[:-1]][-1:])
    return results

  def table(self, found: client_tables.Found) -> Scores:
    """Scores by split and variant, of all clients."""
    return client_tables.table(found, self.engine.num_clients)

  def measured(self, found: client_tables.Found) -> tuple[Scores, Measures]:
    """Likewise, of what programs find that measure."""
    assert self.evaluation.measures is not None
    measures = self.evaluation.measures(self.data[1].values)
    return client_tables.scores_and_measures(
      found, self.engine.num_clients, measures
    )

  def primary_models(self, state: SimulationState) -> Iterator[ClientModel]:
    """The models that clients would use, few of them at a time."""
    for _, part in self.parts(state):
      yield from self._read_models(part)

  def _at_once(self, cohort: str) -> int:
    """How many models of a cohort each device computes at once."""
    return min(_MODELS_AT_ONCE, self.slots[cohort] // self.layout.devices)

  def _read_models(self, state: SimulationState) -> Iterator[ClientModel]:
    """The models of the clients that a state on the devices holds."""
    for cohort, program in self._models.items():
      share = self.slots[cohort] // self.layout.devices
      for index in range(-(-share // self._at_once(cohort))):
        place = self.layout.place(jnp.int32(index), SAME)
        ids, models = jax.device_get(program(state, place, *self.data))
        for row, client_id in enumerate(ids):
          if client_id >= 0:
            own = jax.tree.map(lambda x, row=row: x[row], models)
            yield ClientModel(int(client_id), cohort, *own)

  def shapes(self, finetuning: bool) -> SimulationState:
    """The shapes and types of what `export` gives."""
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
    """The state in host memory, with as many slots as clients.

    With several processes, as many as clients of this one, or one that is
    empty: those of all are perhaps more than a process has memory for.
    """
    state = fetch(state._replace(key=jax.random.key_data(state.key)))

    def first(tree, count):
      return jax.tree.map(lambda x: np.asarray(x)[:count], tree)

    def of_clients(trees):
      # In the order of `ids`; the last slots may be empty.
      return {name: first(trees[name], len(m)) for name, m in self.held.items()}

    return state._replace(
      clients=of_clients(state.clients),
      divergence=of_clients(state.divergence),
      members=dict(self.held),
    )
