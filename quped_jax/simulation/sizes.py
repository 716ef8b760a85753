"""How large clients' states and messages are, before anything is compiled."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.data.federation import Federation
from quped_jax.methods import by_precision
from quped_jax.simulation import memory as memory_lib
from quped_jax.simulation.round import Engine
from quped_jax.simulation.state import Population

# Bytes of a local step, given a client's `own` state and its `download`.
StepBytes = Callable[..., int]


class Sizes(NamedTuple):
  """Bytes of what a client has, receives and sends.

  Attributes:
    estimate: the terms of a round's memory.
    state: of the states of all clients.
    down: that a client receives in a round, on average over clients.
    up: that it sends, likewise.
    shapes: {cohort: shapes of what a client has, receives and sends}.
    empty: cohorts whose message is not `()` or None, by which a method says
      that it sends nothing, and yet holds nothing.
  """

  estimate: memory_lib.Estimate
  state: int
  down: float
  up: float
  shapes: dict[str, tuple[Any, Any, Any]]
  empty: tuple[str, ...]


def measure(
  engine: Engine,
  ids: Mapping[str, np.ndarray],
  federation: Federation,
  population: Population,
  step_bytes: Mapping[str, StepBytes] | None,
) -> Sizes:
  """Measures what clients have, receive and send, by shapes alone.

  Args:
    engine: the computations, whatever their layout.
    ids: {cohort: ids of its clients}.
    federation: the samples.
    population: what the clients bring.
    step_bytes: by cohort, see `make_simulation`.
  """
  abstract = _abstract_state(engine, ids, federation, population)
  shapes = {
    cohort: _client_shapes(engine, abstract, federation, population, cohort)
    for cohort in ids
  }
  sizes = {
    cohort: np.array([memory_lib.nbytes(tree) for tree in trees])
    for cohort, trees in shapes.items()
  }
  most = np.max(list(sizes.values()), axis=0).astype(int)
  collected = _collected_bytes(engine, abstract, federation, population)
  steps = [
    step_bytes[cohort](own=int(size[0]), download=int(size[1]))
    for cohort, size in sizes.items()
    if step_bytes
  ]
  # Sums are of messages as they are read.
  read = [
    jax.eval_shape(engine.method.decode, message)
    for _, _, message in shapes.values()
  ]
  estimate = memory_lib.Estimate(
    data=memory_lib.nbytes((federation, population)),
    # What is collected of single messages is there twice: on the devices that
    # computed it, and gathered.
    server=memory_lib.nbytes(abstract.server) + 2 * collected,
    own=int(most[0]),
    download=int(most[1]),
    message=max(memory_lib.nbytes(message) for message in read),
    step=max(steps, default=0),
    kept=0,
  )
  empty = tuple(
    cohort
    for cohort, (_, _, message) in shapes.items()
    if not (sizes[cohort][2] or message is None or message == ())
  )
  measured = Sizes(estimate, 0, 0.0, 0.0, shapes, empty)
  return with_precisions(measured, ids, np.asarray(population.spec.bits))


def with_precisions(
  sizes: Sizes, ids: Mapping[str, np.ndarray], bits: np.ndarray
) -> Sizes:
  """The same for clients of these precisions, of which some use less.

  Args:
    sizes: of clients with the same shapes.
    ids: {cohort: ids of its clients}.
    bits: `[clients]`.
  """
  weights = [len(members) for members in ids.values()]
  means = [
    np.array([memory_lib.nbytes(tree) for tree in sizes.shapes[cohort]])
    - _unused(sizes.shapes[cohort], bits[members])
    for cohort, members in ids.items()
  ]
  own, down, up = np.average(means, axis=0, weights=weights)
  return sizes._replace(
    estimate=sizes.estimate._replace(kept=int(own)),
    state=int(own * sum(weights)),
    down=float(down),
    up=float(up),
  )


def traffic(sizes: Sizes, cohort: str, bits: int) -> tuple[float, float]:
  """Bytes that a client of a cohort and precision receives, and sends.

  Args:
    sizes: of the federation.
    cohort: the client's.
    bits: its precision.
  """
  trees = sizes.shapes[cohort]
  whole = np.array([memory_lib.nbytes(tree) for tree in trees])
  _, down, up = (whole - _unused(trees, np.array([bits]))).tolist()
  return down, up


def _unused(trees: Any, bits: np.ndarray) -> np.ndarray:
  """Bytes of trees that clients of a cohort do not use, on average over them.

  Args:
    trees: shapes of what a client has, receives and sends.
    bits: the clients' precisions.

  Returns:
    `[trees]`: a part for a precision is nothing to a client whose precision the
    server does not tell apart, though all clients have the same arrays.
  """

  def of_tree(tree):
    parts = jax.tree.leaves(tree, is_leaf=by_precision.is_of_precision)
    return sum(
      memory_lib.nbytes(part) * np.mean(bits > part.precisions)
      for part in parts
      if by_precision.is_of_precision(part)
    )

  return np.array([of_tree(tree) for tree in trees])


def _abstract_state(engine: Engine, ids, federation, population) -> Any:
  """The shapes of a state of all clients."""
  members = {name: jnp.asarray(m) for name, m in ids.items()}
  return jax.eval_shape(
    engine.init, jax.random.key(0), members, federation, population
  )


def _client_shapes(
  engine: Engine, abstract, federation, population, cohort
) -> tuple[Any, Any, Any]:
  """The shapes of a client's state, download and message."""

  def traffic(state, federation, population):
    client = jax.tree.map(lambda x: x[0], state.clients[cohort])
    download, result = engine.update(
      state, federation, population, cohort, jnp.int32(0), client
    )
    return client, download, result.message

  return jax.eval_shape(traffic, abstract, federation, population)


def _collected_bytes(engine: Engine, abstract, federation, population) -> int:
  """Bytes of what a method collects of all single messages."""
  return memory_lib.nbytes(
    jax.eval_shape(
      lambda s, f, p: [engine.slots(s, f, p, c)[1] for c in engine.sizes],
      abstract,
      federation,
      population,
    )
  )


def memory_limit() -> int | None:
  """Bytes of memory of this process's first device, if it says so."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit")


def host_memory() -> int:
  """Bytes of memory that devices share which do not say: the host's cores."""
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
