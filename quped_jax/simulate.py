"""The round: participants chosen, clients run, the server updated.

A `Simulation` is a set of compiled programs over one frozen state. All
randomness comes from the state's key: that of client i in round r is
`fold_in(fold_in(key, r), i)`, whatever runs beside it and in whatever order.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import clients as clients_lib
from quped_jax import evaluate as evaluate_lib
from quped_jax.alternating import Rates
from quped_jax.federation import Federation
from quped_jax.methods import api
from quped_jax.program import Program
from quped_jax.schedule import Schedule

# Numbers that no round and no client has, for keys of their own.
_INIT_ROUND = 2**31 - 1
_SERVER = 2**31 - 1
_SELECTION = 2**31 - 2
_EVALUATION = 2**31 - 3

# Samples of all clients together that are evaluated at once.
_EVALUATED_AT_ONCE = 512


class Population(NamedTuple):
  """What the clients bring, arrays `[clients]`.

  Attributes:
    spec: ClientSpec of arrays.
    rates: Rates of arrays, at round 0.
    shared_learning_rate: float32 `[]`, step size of downloaded models.
  """

  spec: api.ClientSpec
  rates: Rates
  shared_learning_rate: Any

  def of_client(self, client_id) -> tuple[api.ClientSpec, Rates]:
    """One client's spec and rates."""
    return jax.tree.map(lambda x: x[client_id], (self.spec, self.rates))


class SimulationState(NamedTuple):
  """All that a federation is at the end of a round.

  Attributes:
    server: the server's state.
    clients: {cohort: state of its clients, stacked `[clients, ...]`}.
    round: int32 `[]`, the number of rounds that are done.
    key: the root of all randomness.
  """

  server: Any
  clients: dict[str, Any]
  round: jax.Array
  key: jax.Array


class Simulation(NamedTuple):
  """The compiled programs of one federation.

  Attributes:
    init: `seed -> SimulationState`.
    run_round: `state -> (state, metrics)`; takes the state's buffers over.
    evaluate: `state -> {split: {variant: accuracy [clients]}}`, NaN where a
      client has no such variant or no such samples.
    begin_finetune: `state -> state`, begins the second phase; takes the
      buffers of the clients over.
    bytes_down: that one client receives per round.
    bytes_up: that one client sends per round.
    program: the compiled round, with its costs.
    compile_seconds: `() -> float`, spent on compiling all programs so far.
    clients_at_once: how many clients run together.
    headline: the variant that comparisons report.
  """

  init: Callable[[int], SimulationState]
  run_round: Callable[[SimulationState], tuple[SimulationState, Any]]
  evaluate: Callable[[SimulationState], dict[str, dict[str, np.ndarray]]]
  begin_finetune: Callable[[SimulationState], SimulationState]
  bytes_down: float
  bytes_up: float
  program: Program
  compile_seconds: Callable[[], float]
  clients_at_once: int
  headline: str


def _nbytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def make_simulation(
  method: api.FederatedMethod,
  federation: Federation,
  population: Population,
  cohorts: Mapping[str, np.ndarray],
  *,
  schedule: Schedule | None = None,
  strategy: str = "auto",
  chunk_size: int = 1,
  clients_per_round: int | None = None,
) -> Simulation:
  """Makes the programs that simulate a federation.

  Args:
    method: what clients and server do.
    federation: who holds which samples.
    population: what the clients bring.
    cohorts: {name: ids of its clients}; each client is in one.
    schedule: of the rates; constant but for the strength's ramp by default.
    strategy: "auto", "vmap" or "chunks", see `resolve_chunk_size`.
    chunk_size: of "chunks".
    clients_per_round: how many clients, drawn uniformly, take part in each
      round; None for all of them.

  Returns:
    The simulation; nothing is compiled yet.

  Raises:
    ValueError: cohorts that do not hold every client once, or an argument out
      of range.
  """
  schedule = schedule or Schedule()
  num_clients = federation.num_clients
  ids = {name: np.asarray(m, np.int32) for name, m in cohorts.items()}
  everyone = np.sort(np.concatenate(list(ids.values())))
  if not np.array_equal(everyone, np.arange(num_clients)):
    raise ValueError(
      f"cohorts: must hold each of the {num_clients} clients once; got "
      f"{ {name: len(m) for name, m in ids.items()} }"
    )
  present = num_clients if clients_per_round is None else clients_per_round
  if not 1 <= present <= num_clients:
    raise ValueError(
      f"clients_per_round={present}: must be from 1 to {num_clients}"
    )
  if present < num_clients and len(ids) > 1:
    raise ValueError(
      f"clients_per_round={present}: must be {num_clients}, all clients, "
      "with more than one cohort"
    )
  at_once = clients_lib.resolve_chunk_size(strategy, chunk_size, present)
  # What evaluation holds at once does not grow with the clients.
  batch_size = max(_EVALUATED_AT_ONCE // at_once, 16)

  def make_context(population, key, round_, client_id):
    spec, base = population.of_client(client_id)
    rates, shared_rate = schedule.rates(
      base, population.shared_learning_rate, round_
    )
    return api.Context(
      round=round_,
      key=jax.random.fold_in(jax.random.fold_in(key, round_), client_id),
      client_id=client_id,
      spec=spec,
      rates=rates,
      shared_learning_rate=shared_rate,
    )

  def init_fn(key, federation, population):
    init_key = jax.random.fold_in(key, _INIT_ROUND)
    example = federation.example()
    server = method.init_server(init_key, example)

    def init_client(cohort):
      def init(client_id):
        spec, _ = population.of_client(client_id)
        return method.init_client(
          init_key, example, server, client_id, spec, cohort
        )

      return jax.vmap(init)

    clients = {
      name: init_client(name)(jnp.asarray(m)) for name, m in ids.items()
    }
    return SimulationState(server, clients, jnp.int32(0), key)

  def client_step(state, federation, population, cohort):
    def step(client_id, client):
      context = make_context(population, state.key, state.round, client_id)
      download = method.broadcast(state.server, client_id, cohort)
      result = method.client_update(
        download, client, federation.client(client_id), context, cohort
      )
      contribution = method.receive(
        state.server, result.message, result.weight, cohort
      )
      return result.client, (contribution, result.metrics)

    return step

  def select(state, cohort):
    """Ids of the participants, and where in their cohort's state they are."""
    members = jnp.asarray(ids[cohort])
    if present == num_clients:
      return members, None
    round_key = jax.random.fold_in(state.key, state.round)
    key = jax.random.fold_in(round_key, _SELECTION)
    order = jax.random.permutation(key, num_clients)[:present]
    positions = jnp.sort(order).astype(jnp.int32)
    return members[positions], positions

  def round_fn(state, federation, population):
    aggregates, clients, sums = {}, {}, []
    for cohort in ids:
      participants, positions = select(state, cohort)
      clients[cohort], (aggregates[cohort], metrics) = clients_lib.run_clients(
        client_step(state, federation, population, cohort),
        participants,
        state.clients[cohort],
        chunk_size=min(at_once, participants.shape[0]),
        positions=positions,
      )
      sums.append(metrics)
    metrics = jax.tree.map(lambda *parts: sum(parts) / present, *sums)
    round_key = jax.random.fold_in(state.key, state.round)
    context = api.Context(
      round=state.round,
      key=jax.random.fold_in(round_key, _SERVER),
      client_id=jnp.int32(-1),
      spec=None,
      rates=None,
      shared_learning_rate=None,
    )
    server = method.server_update(state.server, aggregates, context)
    return state._replace(
      server=server, clients=clients, round=state.round + 1
    ), metrics

  splits = (
    ("validation", "test") if federation.validation.max_count else ("test",)
  )

  def evaluate_fn(state, federation, population):
    results = {}
    key = jax.random.fold_in(state.key, _EVALUATION)
    for cohort, members in ids.items():

      def one(client_id, client, cohort=cohort):
        context = make_context(population, key, state.round, client_id)
        data = federation.client(client_id)
        variants = method.variants(state.server, client, data, context, cohort)
        return evaluate_lib.accuracies(variants, data, splits, batch_size)

      results[cohort] = clients_lib.map_clients(
        one,
        jnp.asarray(members),
        state.clients[cohort],
        chunk_size=min(at_once, len(members)),
      )
    return results

  initialization = Program(init_fn)
  program = Program(round_fn, donate=(0,))
  evaluation = Program(evaluate_fn)
  begin = method.begin_finetune or (lambda client: client)
  freezing = Program(jax.vmap(begin), donate=(0,))

  def init(seed):
    key = jax.random.key(seed)
    return initialization(key, federation, population)

  def run_round(state):
    return program(state, federation, population)

  def evaluate(state):
    results = jax.device_get(evaluation(state, federation, population))
    table: dict[str, dict[str, np.ndarray]] = {split: {} for split in splits}
    for cohort, per_split in results.items():
      for split, per_variant in per_split.items():
        for variant, values in per_variant.items():
          blank = np.full(num_clients, np.nan, np.float32)
          column = table[split].setdefault(variant, blank)
          column[ids[cohort]] = values
    return table

  def begin_finetune(state):
    if method.begin_finetune is None:
      raise ValueError(
        f"finetune_at={schedule.finetune_at}: must be 0, since the method has "
        "no second phase"
      )
    clients = {name: freezing(c) for name, c in state.clients.items()}
    return state._replace(clients=clients)

  abstract = jax.eval_shape(init_fn, jax.random.key(0), federation, population)

  def traffic(state, federation, population, cohort):
    client_id = jnp.int32(0)
    download = method.broadcast(state.server, client_id, cohort)
    context = make_context(population, state.key, state.round, client_id)
    client = jax.tree.map(lambda x: x[0], state.clients[cohort])
    result = method.client_update(
      download, client, federation.client(client_id), context, cohort
    )
    return download, result.message

  down = up = 0.0
  for cohort, members in ids.items():
    sizes = jax.eval_shape(
      lambda s, f, p, c=cohort: traffic(s, f, p, c),
      abstract,
      federation,
      population,
    )
    down += _nbytes(sizes[0]) * len(members) / num_clients
    up += _nbytes(sizes[1]) * len(members) / num_clients

  return Simulation(
    init=init,
    run_round=run_round,
    evaluate=evaluate,
    begin_finetune=begin_finetune,
    bytes_down=down,
    bytes_up=up,
    program=program,
    compile_seconds=lambda: sum(
      p.compile_seconds for p in (initialization, program, evaluation, freezing)
    ),
    clients_at_once=at_once,
    headline=method.headline,
  )
