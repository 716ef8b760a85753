"""Our contestants: rounds of a `quped_jax.Simulation`, as users run them."""

from typing import Any

import jax
import numpy as np

import quped_jax as qj
from quped_jax.data import Partition

CLASSES = 10


def random_federation(
  clients: int, shape: tuple[int, ...], samples: int, seed: int = 0
) -> qj.Federation:
  """A federation of random inputs and labels, each client with its own.

  Args:
    clients: how many.
    shape: of one input.
    samples: training samples of each client; one more is for testing.
    seed: seed of the samples.
  """
  rng = np.random.default_rng(seed)
  total = clients * (samples + 1)
  data = qj.from_arrays(
    rng.standard_normal((total, *shape), np.float32),
    rng.integers(0, CLASSES, total),
    name="random",
    num_classes=CLASSES,
  )
  rows = np.arange(total, dtype=np.int32).reshape(clients, samples + 1)
  parts = Partition(
    train=tuple(rows[:, :-1]),
    validation=tuple(rows[:, :0]),
    test=tuple(rows[:, -1:]),
  )
  return qj.make_federation(data, parts)


class Rounds:
  """Runs one round after the other, and waits for each.

  Attributes:
    simulation: what runs.
    state: after the last round.
  """

  def __init__(self, simulation: qj.Simulation):
    self.simulation = simulation
    self.state = simulation.init(0)

  def __call__(self) -> None:
    self.state, metrics = self.simulation.run_round(self.state)
    jax.block_until_ready((self.state, metrics))

  @property
  def client_bytes(self) -> int:
    """Bytes of one copy of the state of all clients."""
    return tree_bytes(self.state.clients)

  @property
  def round_bytes(self) -> int:
    """Memory that the compiled round takes, on all devices together.

    Arguments, outputs and temporaries; a buffer that is both argument and
    output counts once.
    """
    program = self.simulation.program
    return program.memory * self.simulation.layout.devices


class RunsAtOnce:
  """Runs one round of several runs after the other, and waits for each.

  Args:
    simulation: of one of them; they differ in their seeds.
    runs: how many.
  """

  def __init__(self, simulation: qj.Simulation, runs: int):
    assert simulation.axis is not None
    self.axis = simulation.axis(runs, ("source",))
    self.data = self.axis.stack_data([simulation.data])
    self.state = self.axis.stack(simulation.init(seed) for seed in range(runs))

  def __call__(self) -> None:
    self.state, metrics = self.axis.run_rounds(self.state, 1, self.data)
    jax.block_until_ready((self.state, metrics))


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays of a tree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def rounds(
  federation: qj.Federation, model: qj.Model | None = None, **settings: Any
) -> Rounds:
  """Rounds over a federation, on fresh weights.

  Args:
    federation: the data.
    model: takes the place of the one that the settings name.
    **settings: fields of `quped_jax.Settings`.
  """
  # Random labels: larger steps would only let the weights run away.
  defaults = {
    "clients": federation.num_clients,
    "learning_rate": (0.01,),
    "shared_learning_rate": 0.01,
  }
  simulation, _, _ = qj.build(
    qj.Settings(**{**defaults, **settings}), federation=federation, model=model
  )
  return Rounds(simulation)
