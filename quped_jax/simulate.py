"""The round: participants chosen, clients run, the server updated.

A `Simulation` is a set of compiled programs over one frozen state. All
randomness comes from the state's key: that of client i in round r is
`fold_in(fold_in(key, r), i)`, whatever runs beside it and in whatever order.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from quped_jax import clients as clients_lib
from quped_jax import codebook as codebook_lib
from quped_jax import evaluate as evaluate_lib
from quped_jax import memory as memory_lib
from quped_jax.alternating import Rates
from quped_jax.clients import Layout
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
    clients: {cohort: state of its clients, stacked `[slots, ...]`}. There are
      as many slots as clients, or a few more, so that devices divide them.
    members: {cohort: int32 `[slots]`, which client is in each slot; -1 for
      none}.
    round: int32 `[]`, the number of rounds that are done.
    key: the root of all randomness.
  """

  server: Any
  clients: dict[str, Any]
  members: dict[str, jax.Array]
  round: jax.Array
  key: jax.Array


class Simulation(NamedTuple):
  """The compiled programs of one federation.

  Attributes:
    init: `seed -> SimulationState`.
    run_rounds: `(state, rounds) -> (state, metrics of the last)`, at least
      one round; takes the state's buffers over. The rounds go in one dispatch,
      whatever their number, unless the host loops over chunks of clients.
    run_round: `state -> (state, metrics)`, one round.
    evaluate: `state -> {split: {variant: accuracy [clients]}}`, NaN where a
      client has no such variant or no such samples.
    begin_finetune: `state -> state`, begins the second phase; takes the
      buffers of the clients over.
    bytes_down: that one client receives per round.
    bytes_up: that one client sends per round.
    gradients: gradient evaluations of a client per round, see
      `FederatedMethod`.
    memory: bytes that a round takes on each device, by the formula of
      `quped_jax.memory`.
    program: the compiled round, or that of a chunk of its clients under
      "dispatch", with its costs.
    compile_seconds: `() -> float`, spent on compiling all programs so far.
    layout: how clients are run.
    headline: the variant that comparisons report.
  """

  init: Callable[[int], SimulationState]
  run_rounds: Callable[[SimulationState, int], tuple[SimulationState, Any]]
  run_round: Callable[[SimulationState], tuple[SimulationState, Any]]
  evaluate: Callable[[SimulationState], dict[str, dict[str, np.ndarray]]]
  begin_finetune: Callable[[SimulationState], SimulationState]
  bytes_down: float
  bytes_up: float
  gradients: float | None
  memory: int
  program: Program
  compile_seconds: Callable[[], float]
  layout: Layout
  headline: str


# The rest is for the programs themselves and for what fragments.
_USABLE_MEMORY = 0.85


def _room_for(estimate, num_clients, devices) -> int | None:
  """How many clients a device runs at once; None if it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" not in stats:
    return None
  slots = -(-num_clients // (devices or len(jax.local_devices())))
  return estimate.room_for(slots, int(_USABLE_MEMORY * stats["bytes_limit"]))


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
  clients_per_round: int | None = None,
  step_bytes: Callable[..., int] | None = None,
) -> Simulation:
  """Makes the programs that simulate a federation.

  Args:
    method: what clients and server do.
    federation: who holds which samples.
    population: what the clients bring.
    cohorts: {name: ids of its clients}; each client is in one.
    schedule: of the rates; constant but for the strength's ramp by default.
    strategy: "auto", "vmap", "chunks" or "dispatch", see `resolve_layout`.
    chunk_size: of "chunks" and "dispatch".
    devices: over how many devices the clients are divided; 0 for all.
    clients_per_round: how many clients, drawn uniformly, take part in each
      round; None for all of them.
    step_bytes: how many bytes a client's local step needs, given `own` and
      `download`, see `memory.step_bytes`; None for 0.

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

  def make_context(population, public, key, round_, client_id):
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
      public=public,
    )

  def server_context(state, public):
    round_key = jax.random.fold_in(state.key, state.round)
    return api.Context(
      round=state.round,
      key=jax.random.fold_in(round_key, _SERVER),
      client_id=jnp.int32(-1),
      spec=None,
      rates=None,
      shared_learning_rate=None,
      public=public,
    )

  def init_fn(key, members, federation, population):
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

    clients = {name: init_client(name)(m) for name, m in members.items()}
    return SimulationState(server, clients, members, jnp.int32(0), key)

  def update(state, federation, population, cohort, client_id, client):
    """A client's round: what it receives, and what comes of it."""
    context = make_context(
      population, federation.public, state.key, state.round, client_id
    )
    download = method.broadcast(state.server, client_id, cohort)
    return download, method.client_update(
      download, client, federation.client(client_id), context, cohort
    )

  def client_step(state, federation, population, cohort):
    at_server = server_context(state, federation.public)

    def step(client_id, slot):
      client, _ = slot
      _, result = update(
        state, federation, population, cohort, client_id, client
      )
      contribution = method.receive(
        state.server, result.message, result.weight, at_server, cohort
      )
      part = collect(result.message, result.weight)
      return (result.client, part), (contribution, result.metrics)

    return step

  def collect(message, weight):
    """What is kept of one message apart: nothing, for most methods."""
    if method.collect is None:
      return ()
    weight = jnp.asarray(weight, jnp.float32)
    return method.collect(message), weight, jnp.bool_(True)

  def with_parts(state, federation, population, cohort):
    """The clients' states, each beside room for what is kept apart."""
    clients, members = state.clients[cohort], state.members[cohort]
    if method.collect is None:
      return clients, ()

    def part(client):
      _, result = update(
        state, federation, population, cohort, members[0], client
      )
      return collect(result.message, result.weight)

    shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], clients))
    return clients, jax.tree.map(
      lambda x: jnp.zeros((members.shape[0], *x.shape), x.dtype), shapes
    )

  def collected(members, part):
    if method.collect is None:
      return None
    parts, weights, sent = layout.gather(part)
    return api.Collected(
      jnp.where(sent, layout.gather(members), -1), parts, weights
    )

  # What travels, and what a round takes: by shapes, before all else.
  abstract = jax.eval_shape(
    init_fn,
    jax.random.key(0),
    {name: jnp.asarray(m) for name, m in ids.items()},
    federation,
    population,
  )

  def traffic(state, federation, population, cohort):
    client = jax.tree.map(lambda x: x[0], state.clients[cohort])
    download, result = update(
      state, federation, population, cohort, jnp.int32(0), client
    )
    return client, download, result.message

  sizes = {}
  for cohort in ids:
    shapes = jax.eval_shape(
      lambda s, f, p, c=cohort: traffic(s, f, p, c),
      abstract,
      federation,
      population,
    )
    sizes[cohort] = np.array([memory_lib.nbytes(tree) for tree in shapes])
  members_of = [len(members) for members in ids.values()]
  _, down, up = np.average(list(sizes.values()), axis=0, weights=members_of)
  own, download, message = (
    int(x) for x in np.max(list(sizes.values()), axis=0)
  )
  kept = memory_lib.nbytes(
    jax.eval_shape(
      lambda s, f, p: [with_parts(s, f, p, cohort)[1] for cohort in ids],
      abstract,
      federation,
      population,
    )
  )
  estimate = memory_lib.Estimate(
    data=memory_lib.nbytes((federation, population)),
    # What single messages leave is there twice: as it comes, and together.
    server=memory_lib.nbytes(abstract.server) + 2 * kept,
    own=own,
    download=download,
    message=message,
    step=step_bytes(own=own, download=download) if step_bytes else 0,
  )
  # A batched soft quantizer gains nothing: its loops run for all if for one.
  full = np.asarray(population.spec.bits) >= codebook_lib.FULL_PRECISION
  small = step_bytes is not None and np.all(full)
  layout = clients_lib.resolve_layout(
    strategy,
    chunk_size,
    present,
    devices=devices,
    room_for=_room_for(estimate, num_clients, min(devices, present)),
    client_bytes=estimate.client if small else None,
  )
  # What evaluation holds at once does not grow with the clients.
  batch_size = max(_EVALUATED_AT_ONCE // layout.chunk_size, 16)
  federation, population = layout.place((federation, population), P())

  def choose(state, cohort):
    """Who of this device's clients takes part; None for all of its slots."""
    members = state.members[cohort]
    if present == num_clients:
      filled = layout.slots(len(ids[cohort])) == len(ids[cohort])
      most = members.shape[0]
      return None if filled else clients_lib.choose(members >= 0, most)
    round_key = jax.random.fold_in(state.key, state.round)
    key = jax.random.fold_in(round_key, _SELECTION)
    order = jax.random.permutation(key, num_clients)
    takes_part = jnp.zeros(num_clients, bool).at[order[:present]].set(True)
    mask = (members >= 0) & takes_part[members]
    return clients_lib.choose(mask, min(present, members.shape[0]))

  def close_round(state, clients, sums, parts, public):
    """The server's step, from what each device summed up and collected."""
    aggregates, metrics = {}, []
    for cohort, (aggregate, metric) in layout.sum(sums).items():
      kept = collected(state.members[cohort], parts[cohort])
      aggregates[cohort] = aggregate._replace(collected=kept)
      metrics.append(metric)
    metrics = jax.tree.map(lambda *parts: sum(parts) / present, *metrics)
    context = server_context(state, public)
    server = method.server_update(state.server, aggregates, context)
    return state._replace(
      server=server, clients=clients, round=state.round + 1
    ), metrics

  def zero_sums(state, federation, population, cohort):
    """What no client at all sends, and the room for what is kept apart."""
    slots = with_parts(state, federation, population, cohort)
    step = client_step(state, federation, population, cohort)
    zero = clients_lib.zero_output(step, state.members[cohort], slots)
    return zero, slots[1]

  def round_fn(state, zeros, federation, population):
    clients, sums, parts = {}, {}, {}
    for cohort in ids:
      (clients[cohort], parts[cohort]), sums[cohort] = clients_lib.run_clients(
        client_step(state, federation, population, cohort),
        state.members[cohort],
        (state.clients[cohort], zeros[cohort][1]),
        chunk_size=layout.chunk_size,
        chosen=choose(state, cohort),
        zero=zeros[cohort][0],
      )
    return close_round(state, clients, sums, parts, federation.public)

  def rounds_fn(state, rounds, federation, population):
    zeros = {
      cohort: zero_sums(state, federation, population, cohort) for cohort in ids
    }
    # All cohorts report the same metrics; they are those of a last round.
    (_, sums), _ = next(iter(zeros.values()))
    metrics = jax.tree.map(lambda x: x / present, sums)
    return jax.lax.fori_loop(
      0,
      rounds,
      lambda _, carry: round_fn(carry[0], zeros, federation, population),
      (state, metrics),
    )

  def chunk_fn(state, carry, order, index, federation, population, cohort):
    """One chunk of a cohort's clients: what the host loops over."""
    step = client_step(state, federation, population, cohort)
    members, (sums, parts) = state.members[cohort], carry
    chosen = None
    if order is not None:
      most = min(present, members.shape[0])
      chosen = clients_lib.Chosen(order[0], order[1][0], most)
    chosen, size, _ = clients_lib.divide(
      members.shape[0], layout.chunk_size, chosen
    )
    (clients, parts), part = clients_lib.run_chunk(
      step,
      members,
      (state.clients[cohort], parts),
      index,
      size=size,
      chosen=chosen,
    )
    part = jax.tree.map(lambda x: x[None], part)
    sums = jax.tree.map(jnp.add, sums, part)
    return state._replace(clients={**state.clients, cohort: clients}), (
      sums,
      parts,
    )

  def open_fn(state, federation, population, cohort):
    """Begins a round on the host.

    Returns:
      Sums of no clients at all, one on each device, and room for what is kept
      of each message; and who takes part, each device's positions and their
      number, or None for everyone.
    """
    chosen = choose(state, cohort)
    order = None if chosen is None else (chosen.positions, chosen.count[None])
    zero, parts = zero_sums(state, federation, population, cohort)
    return (jax.tree.map(lambda x: x[None], zero), parts), order

  def close_fn(state, carries, public):
    sums = {name: carry[0] for name, carry in carries.items()}
    parts = {name: carry[1] for name, carry in carries.items()}
    sums = jax.tree.map(lambda x: x[0], sums)
    return close_round(state, state.clients, sums, parts, public)

  splits = (
    ("validation", "test") if federation.validation.max_count else ("test",)
  )

  def evaluate_fn(state, federation, population):
    results = {}
    key = jax.random.fold_in(state.key, _EVALUATION)
    for cohort in ids:

      def one(client_id, client, cohort=cohort):
        context = make_context(
          population, federation.public, key, state.round, client_id
        )
        data = federation.client(client_id)
        variants = method.variants(state.server, client, data, context, cohort)
        return evaluate_lib.accuracies(variants, data, splits, batch_size)

      results[cohort] = clients_lib.map_clients(
        one,
        state.members[cohort],
        state.clients[cohort],
        chunk_size=layout.chunk_size,
      )
    return results

  # What is the same on all devices, and what is divided over them.
  same, divided = P(), P(clients_lib.AXIS)
  specs: Any = (same, divided, divided, same, same)
  where = SimulationState(*specs)

  def shard(fn, inputs, outputs, **options):
    return Program(layout.shard(fn, inputs, outputs), **options)

  data_specs = (same, same)
  initialization = shard(init_fn, (same, divided, *data_specs), where)
  evaluation = shard(evaluate_fn, (where, *data_specs), divided)
  begin = method.begin_finetune or (lambda client: client)
  freezing = shard(jax.vmap(begin), (divided,), divided, donate=(0,))
  whole = shard(
    rounds_fn, (where, same, *data_specs), (where, same), donate=(0,)
  )
  per_chunk = {
    cohort: shard(
      functools.partial(chunk_fn, cohort=cohort),
      (where, divided, divided, same, *data_specs),
      (where, divided),
      donate=(0, 1),
    )
    for cohort in ids
  }
  opening = {
    cohort: shard(
      functools.partial(open_fn, cohort=cohort), (where, *data_specs), divided
    )
    for cohort in ids
  }
  closing = shard(close_fn, (where, divided, same), (where, same), donate=(0,))
  programs = (
    *(initialization, evaluation, freezing, whole, closing),
    *per_chunk.values(),
    *opening.values(),
  )

  def in_slots(members):
    missing = layout.slots(len(members)) - len(members)
    return np.append(members, np.full(missing, -1, np.int32))

  def init(seed):
    members = {
      name: layout.place(jnp.asarray(in_slots(m)), divided)
      for name, m in ids.items()
    }
    key = layout.place(jax.random.key(seed), same)
    return initialization(key, members, federation, population)

  def refit(state):
    """The state with as many slots as this number of devices asks for."""
    members, clients = dict(state.members), dict(state.clients)
    for cohort, owners in ids.items():
      if members[cohort].shape[0] == layout.slots(len(owners)):
        continue
      members[cohort] = jnp.asarray(in_slots(owners))
      last = len(owners) - 1
      source = np.minimum(np.arange(layout.slots(len(owners))), last)
      clients[cohort] = jax.tree.map(
        lambda x, source=source: x[source], clients[cohort]
      )
    return state._replace(members=members, clients=clients)

  def place(state):
    """Moves a state made elsewhere, say on more devices, to where it runs."""
    state = refit(state)
    if layout.mesh is None:
      if len(jnp.asarray(state.round).devices()) > 1:
        return jax.device_put(state, jax.local_devices()[0])
      return state
    parts = zip(state, specs, strict=True)
    return SimulationState(*(layout.place(*part) for part in parts))

  def run_rounds(state, rounds):
    state = place(state)
    if not layout.on_host:
      count = layout.place(jnp.int32(rounds), same)
      return whole(state, count, federation, population)
    metrics = None
    for _ in range(rounds):
      state, metrics = round_on_host(state)
    return state, metrics

  def round_on_host(state):
    carries = {}
    for cohort, members in ids.items():
      carries[cohort], order = opening[cohort](state, federation, population)
      slots = layout.slots(len(members)) // layout.devices
      most = min(present, slots)
      for index in range(-(-most // min(layout.chunk_size, most))):
        place = layout.place(jnp.int32(index), same)
        state, carries[cohort] = per_chunk[cohort](
          state, carries[cohort], order, place, federation, population
        )
    return closing(state, carries, federation.public)

  def evaluate(state):
    results = jax.device_get(evaluation(place(state), federation, population))
    table: dict[str, dict[str, np.ndarray]] = {split: {} for split in splits}
    for cohort, per_split in results.items():
      members = ids[cohort]
      for split, per_variant in per_split.items():
        for variant, values in per_variant.items():
          blank = np.full(num_clients, np.nan, np.float32)
          column = table[split].setdefault(variant, blank)
          column[members] = values[: len(members)]
    return table

  def begin_finetune(state):
    if method.begin_finetune is None:
      raise ValueError(
        f"finetune_at={schedule.finetune_at}: must be 0, since the method has "
        "no second phase"
      )
    state = place(state)
    clients = {name: freezing(c) for name, c in state.clients.items()}
    return state._replace(clients=clients)

  return Simulation(
    init=init,
    run_rounds=run_rounds,
    run_round=lambda state: run_rounds(state, 1),
    evaluate=evaluate,
    begin_finetune=begin_finetune,
    bytes_down=float(down),
    bytes_up=float(up),
    gradients=method.gradients,
    memory=estimate.total(
      sum(layout.slots(len(m)) for m in ids.values()) // layout.devices,
      layout.chunk_size,
    ),
    program=next(iter(per_chunk.values())) if layout.on_host else whole,
    compile_seconds=lambda: sum(p.compile_seconds for p in programs),
    layout=layout,
    headline=method.headline,
  )
