"""What goes through rounds: clients' properties, the state, and its sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax.methods import api
from quped_jax.quantization.alternating import Rates
from quped_jax.short_repr import short_repr
from quped_jax.simulation.divergence import Tally
from quped_jax.simulation.participation import Participation


class Population(NamedTuple):
  """What the clients bring, arrays `[clients]`.

  Attributes:
    spec: ClientSpec of arrays.
    rates: Rates of arrays, at round 0.
    shared_learning_rate: float32 `[]`, step size of downloaded models.
    participation: who takes part in which round.
    values: tree of numbers from which method and schedule follow, if programs
      are made so, see `make_simulation`.
    rounds: float32 `[]`, how many rounds the training has; None if the clients'
      rates do not depend on it.
  """

  spec: api.ClientSpec
  rates: Rates
  shared_learning_rate: Any
  participation: Participation = Participation()
  values: Any = ()
  rounds: Any = None

  __repr__ = short_repr

  def first(self, num_clients: int) -> Population:
    """The same for the first clients alone; only these take part in rounds."""
    spec, rates = jax.tree.map(
      lambda x: x[:num_clients], (self.spec, self.rates)
    )
    return self._replace(spec=spec, rates=rates)

  def of_client(self, client_id) -> tuple[api.ClientSpec, Rates]:
    """One client's spec and rates."""
    return jax.tree.map(lambda x: x[client_id], (self.spec, self.rates))


class SimulationState(NamedTuple):
  """The state of a federation at the end of a round.

  Attributes:
    server: the server's state.
    clients: {cohort: state of its clients, stacked `[slots, ...]`}. There are
      as many slots as clients, or a few more, so that every device has equally
      many.
    members: {cohort: int32 `[slots]`, which client is in each slot; -1 for
      none}.
    round: int32 `[]`, the number of completed rounds.
    key: the root of all randomness.
    divergence: {cohort: DivergenceRecord of its clients, stacked}.
    monitor: the server's DivergenceMonitor.

  Examples:
    >>> settings = qj.Settings(method="local", clients=4, bits=(1, 2))
    >>> state = qj.build(settings).simulation.init(seed=0)
    >>> {name: ids.tolist() for name, ids in state.members.items()}
    {'clients': [0, 1, 2, 3]}
  """

  server: Any
  clients: dict[str, Any]
  members: dict[str, jax.Array]
  round: jax.Array
  key: jax.Array
  divergence: dict[str, Any]
  monitor: Any

  __repr__ = short_repr


class Heard(NamedTuple):
  """What is summed over the clients of a round.

  Attributes:
    aggregate: what the server received.
    metrics: sums of what the clients report.
    tally: how many they are, and of how many the round is undone.
  """

  aggregate: api.Aggregate
  metrics: Any
  tally: Tally


def client_state(state: SimulationState, client_id: int) -> Any:
  """One client's own state, taken from the stacked state of all.

  Args:
    state: of the federation, such as `Result.state`.
    client_id: from 0.

  Returns:
    What the method keeps for a client, without the axis of clients: a `Learner`
    for QuPeD and local training, say.

  Raises:
    ValueError: no such client, or no state.

  Examples:
    >>> settings = qj.Settings(method="local", clients=4, bits=(1, 2))
    >>> state = qj.build(settings).simulation.init(seed=0)
    >>> learner = qj.client_state(state, 1)
    >>> int(learner.codebooks["hidden_1"]["kernel"].levels)  # 2 bits
    4
  """
  if not isinstance(state, SimulationState):
    raise ValueError(
      f"state={type(state).__name__}: must be a state, such as result.state"
    )
  for cohort, members in state.members.items():
    (place,) = np.nonzero(np.asarray(members) == client_id)
    if client_id >= 0 and place.size:
      return jax.tree.map(lambda x, at=place[0]: x[at], state.clients[cohort])
  largest = max(int(np.max(members)) for members in state.members.values())
  raise ValueError(f"client_id={client_id}: must be from 0 to {largest}")
