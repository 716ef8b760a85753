"""The run axis: runs that the same programs serve, all of them at once.

Stacked arrays lead with a `runs` axis, which lies outside that of clients, and
over which the programs of one run are mapped. What all runs have in common,
such as the pool of samples, is there once. Each run is computed as by itself:
nothing crosses between runs, and what becomes of one changes no bit of another.

All runs of a stack go through as many rounds, from the same one on.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.data.federation import Federation
from quped_jax.simulation.client_tables import Measures, Scores
from quped_jax.simulation.layout import SAME
from quped_jax.simulation.program import Program
from quped_jax.simulation.resident import Resident
from quped_jax.simulation.round import Engine
from quped_jax.simulation.state import Population, SimulationState

# What several federations may have in common; tables are each one's own.
_COMMON = ("source", "public")


def common_parts(federations: Iterable[Federation]) -> tuple[str, ...]:
  """Which parts of federations are the same in all, and have arrays.

  Args:
    federations: at least one, in host memory.
  """
  first, *others = federations
  return tuple(
    name
    for name in _COMMON
    if jax.tree.leaves(getattr(first, name))
    and all(_same(getattr(first, name), getattr(x, name)) for x in others)
  )


def _same(a: Any, b: Any) -> bool:
  """Whether two trees of one structure hold the same."""
  if a is b:
    return True
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(
    x is y or (np.shape(x) == np.shape(y) and np.array_equal(x, y))
    for x, y in leaves
  )


class StackedData(NamedTuple):
  """The data of several runs.

  Attributes:
    common: {part of a federation: what all runs have}.
    own: the federations without these parts, and the populations, `[runs,
      ...]`.
  """

  common: dict[str, Any]
  own: tuple[Federation, Population]


def _joined(common, own) -> tuple[Federation, Population]:
  """The data of one run."""
  federation, population = own
  return dataclasses.replace(federation, **common), population


class Memory(NamedTuple):
  """What a round of several runs takes, see `quped_jax.simulation.memory`.

  Attributes:
    one: bytes that a round of one run takes.
    common: of them, those of what all runs have in common.
  """

  one: int
  common: int

  def total(self, runs: int) -> int:
    """Bytes that a round of so many runs takes."""
    return self.common + runs * (self.one - self.common)

  def runs_at_once(self, runs: int, limit: int) -> int:
    """How many of some runs to have at once, so that few parts are needed.

    Args:
      runs: how many there are.
      limit: bytes of memory.

    Returns:
      From 1 to `runs`; the parts are of about one size.
    """
    room = (limit - self.common) // max(self.one - self.common, 1)
    most = min(max(room, 1), runs)
    return -(-runs // -(-runs // most))


class RunAxis:
  """The programs of several runs at once.

  Args:
    backend: has the programs of one run, on one device.
    runs: how many there are at once.
    common: which parts of federations all runs have in common.

  Attributes:
    runs: as given.
    main: the program of the rounds, whose costs are reported.
  """

  def __init__(self, backend: Resident, runs: int, common: Sequence[str] = ()):
    self.runs, self._common, self._backend = runs, tuple(common), backend
    loop, evaluate, measure = (
      self._of_all(backend.given(fn), inputs)
      for fn, inputs in (
        (Engine.loop, (0, None)),
        (backend.evaluation.evaluate, (0,)),
        (backend.evaluation.measure, (0,)),
      )
    )

    def rounds(state, rounds, common, own):
      # One number for all, by which the loop is one.
      more = ~state.monitor.calibrated[0]
      count = rounds + more.astype(jnp.int32)
      return loop(state, count, common, own)

    def freeze(clients, own):
      return jax.vmap(backend.freeze.jitted)(clients, own[1])

    def spread(state):
      return jax.tree.map(
        lambda x: jnp.broadcast_to(x, (runs, *x.shape)), state
      )

    def put(stacked, state, index):
      return jax.tree.map(
        lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, index, 0),
        stacked,
        state,
      )

    def take(stacked, index):
      return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, False), stacked
      )

    self.main = self._program(rounds, donate=(0,))
    self._evaluate = self._program(evaluate)
    self._measure = self._program(measure)
    self._freeze = self._program(freeze, donate=(0,))
    self._spread = self._program(spread)
    self._put = self._program(put, donate=(0,))
    self._take = self._program(take)

  def _program(self, fn: Callable[..., Any], **options) -> Program:
    return self._backend.shard(fn, SAME, SAME, **options)

  def _of_all(self, fn: Callable[..., Any], inputs: tuple[int | None, ...]):
    """`fn(*inputs, federation, population)` of one run, of all runs.

    Args:
      fn: of one run.
      inputs: the axes of its first arguments.
    """

    def one(*args):
      *given, common, own = args
      return fn(*given, *_joined(common, own))

    return jax.vmap(one, in_axes=(*inputs, None, 0))

  def stack_data(
    self, data: Sequence[tuple[Federation, Population]]
  ) -> StackedData:
    """Stacks the data of runs; of fewer than there are at once, the last often.

    Args:
      data: of each run, on the devices.
    """
    first = data[0][0]
    common = {name: getattr(first, name) for name in self._common}
    bare = [
      (dataclasses.replace(x, **dict.fromkeys(common)), population)
      for x, population in data
    ]
    bare += bare[-1:] * (self.runs - len(bare))
    return StackedData(common, jax.tree.map(_stacked, *bare))

  def stack(self, states: Iterable[SimulationState]) -> SimulationState:
    """Stacks states of one round; of fewer than runs, the first fills it up.

    Args:
      states: of each run; each is asked for once the others are stacked.
    """
    stacked = None
    for index, state in enumerate(states):
      if stacked is None:
        stacked = self._spread(state)
      else:
        stacked = self._put(stacked, state, jnp.int32(index))
    assert stacked is not None
    return stacked

  def take(self, stacked: Any, run: int) -> Any:
    """One run's part of what is stacked, copied."""
    return self._take(stacked, jnp.int32(run))

  def run_rounds(
    self, state: SimulationState, rounds: int, data: StackedData
  ) -> tuple[SimulationState, dict[str, Any]]:
    """Runs rounds, at least one, and takes over the state's buffers.

    Returns:
      The state, and the metrics of the last round, `[runs]`.
    """
    return self.main(state, jnp.int32(rounds), *data)

  def evaluate(self, state: SimulationState, data: StackedData) -> list[Scores]:
    """Of each run, {split: {variant: score `[clients]`}}."""
    return [
      self._backend.table(found)
      for found in self._each_run(self._evaluate, state, data)
    ]

  def measure(
    self, state: SimulationState, data: StackedData
  ) -> list[tuple[Scores, Measures]]:
    """Of each run, the same and the measures, if there are any."""
    if self._backend.evaluation.measures is None:
      return [(scores, {}) for scores in self.evaluate(state, data)]
    return [
      self._backend.measured(found)
      for found in self._each_run(self._measure, state, data)
    ]

  def _each_run(self, program: Program, state, data: StackedData):
    """What a program finds of each run, see `client_tables`."""
    found = jax.device_get(program(state, *data))
    for run in range(self.runs):
      own = jax.tree.map(lambda x, run=run: x[run], found)
      yield [(self._backend.ids, own)]

  def begin_finetune(
    self, state: SimulationState, data: StackedData
  ) -> SimulationState:
    """Begins the fine-tuning phase; takes over the buffers of the clients."""
    self._backend.check_finetuning()
    clients = {
      name: self._freeze(c, data.own) for name, c in state.clients.items()
    }
    return state._replace(clients=clients)

  def compile_seconds(self) -> float:
    """Spent on compiling these programs and those of one run."""
    return self._backend.compile_seconds()


def _stacked(*parts: Any) -> jax.Array:
  """Arrays or numbers of the runs as one array.

  Numbers whose type gives way to others', such as Python's, stay so: a program
  promotes them as it does those of one run.
  """
  rows = [jnp.asarray(x) for x in parts]
  if not any(x.weak_type for x in rows):
    return jax.device_put(np.stack([np.asarray(x) for x in rows]))
  return jax.lax.concatenate([jax.lax.expand_dims(x, (0,)) for x in rows], 0)
