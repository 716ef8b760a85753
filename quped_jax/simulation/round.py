"""What each device computes in a round: pure functions of a frozen state.

All randomness comes from the state's key: that of client i in round r is
`fold_in(fold_in(key, r), i)`, whatever runs beside it and in whatever order.
Backends (`quped_jax.simulation.programs`) compile these functions and call
them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.simulation import client_axis as clients_lib
from quped_jax.simulation import contexts
from quped_jax.simulation import divergence as divergence_lib
from quped_jax.simulation import sub_cohorts as sub_cohorts_lib
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.schedule import Schedule
from quped_jax.simulation.state import Heard, Population, SimulationState

# `(values, most levels) -> (method, schedule)`: both with these numbers, maybe
# traced, for clients that have no more levels; None for all clients.
OfValues = Callable[[Any, int | None], tuple[api.FederatedMethod, Schedule]]


@dataclasses.dataclass(frozen=True)
class Engine:
  """The computations of a federation; every method is a pure function.

  A client's slot is `(state, part, record)`: its state; what the method
  collects of its single message, which is nothing for most methods; and its
  DivergenceRecord. A cohort's carry is `(heard, parts)`: the Heard so far, and
  the parts of all slots.

  Attributes:
    method: what clients and server do.
    schedule: of the rates.
    sizes: {cohort: number of its clients}.
    layout: how clients are run.
    slots_are_participants: whether a state holds only the clients that take
      part in the round, or are evaluated.
    max_message_norm: a client whose message is longer has diverged; 0 to
      compare with the norms of earlier rounds.
    calibrate: whether the first round is first run for its norms alone.
    sub_cohorts: {cohort: parts that run one after the other}, of those cohorts
      that are divided; everyone takes part in every round.
    of_values: method and schedule, from the numbers that programs are given,
      see `make_simulation`; None if they follow from nothing.
    updates: {what clients do: `update`, once it was called}. A client's round
      is by far the longest to trace, and is traced for its shapes before it is
      compiled; `jax.jit` traces it once for all who call it with arrays of the
      same shapes.
  """

  method: api.FederatedMethod
  schedule: Schedule
  sizes: Mapping[str, int]
  layout: Layout
  slots_are_participants: bool = False
  max_message_norm: float = 0.0
  calibrate: bool = False
  sub_cohorts: Mapping[str, Sequence[sub_cohorts_lib.Part]] = dataclasses.field(
    default_factory=dict
  )
  of_values: OfValues | None = None
  updates: dict[Any, Any] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  @property
  def num_clients(self) -> int:
    return sum(self.sizes.values())

  def given(self, population: Population) -> "Engine":
    """The engine, its method and schedule as the population's values say."""
    if self.of_values is None:
      return self
    method, schedule = self.of_values(population.values, None)
    return dataclasses.replace(self, method=method, schedule=schedule)

  def init(
    self,
    key: jax.Array,
    members: Mapping[str, jax.Array],
    federation: Federation,
    population: Population,
  ) -> SimulationState:
    """The state before the first round, of the clients in these slots."""
    init_key = jax.random.fold_in(key, random_keys.INITIALIZATION)
    example = federation.example()
    server = self.method.init_server(init_key, example)

    def init_client(cohort):
      def init(client_id):
        spec, _ = population.of_client(client_id)
        return self.method.init_client(
          init_key, example, server, client_id, spec, cohort
        )

      return jax.vmap(init)

    clients = {name: init_client(name)(m) for name, m in members.items()}
    return SimulationState(
      server,
      clients,
      dict(members),
      jnp.int32(0),
      key,
      {
        name: divergence_lib.new_records(m.shape[0])
        for name, m in members.items()
      },
      divergence_lib.new_monitor(not self.calibrate),
    )

  def update(
    self,
    state,
    federation,
    population,
    cohort,
    client_id,
    client,
    part: sub_cohorts_lib.Part | None = None,
  ):
    """A client's round: what it downloads, and its ClientResult as sent."""
    kind = cohort, part and part.clients
    if kind not in self.updates:
      self.updates[kind] = jax.jit(
        functools.partial(self._update, part, cohort)
      )
    # Not what belongs to other clients, whose number differs between callers.
    state = state._replace(clients=None, members=None, divergence=None)
    return self.updates[kind](state, federation, population, client_id, client)

  def _update(
    self, part, cohort, state, federation, population, client_id, client
  ):
    method, schedule = part.method if part else self.method, self.schedule
    if self.of_values is not None:
      # From its own argument, by which what is traced once serves all.
      most = part.clients.most if part else None
      method, schedule = self.of_values(population.values, most)
    key = jax.random.fold_in(state.key, state.round)
    context = contexts.of_client(
      schedule, state.round, key, federation, population, client_id
    )
    participation = population.participation
    own_steps = participation.steps_of(client_id)
    context = context._replace(
      own_steps=own_steps,
      num_steps=participation.num_steps(context.key, own_steps),
    )
    about = contexts.about_client(state, federation, population, client_id)
    download = method.broadcast(state.server, about, cohort)
    return download, method.client_update(
      download,
      client,
      federation.client(client_id),
      context,
      cohort,
    )

  def result(
    self, state, federation, population, cohort, client_id, client, part=None
  ) -> api.ClientResult:
    """A client's result, with its message as the server reads it."""
    _, result = self.update(
      state, federation, population, cohort, client_id, client, part
    )
    return result._replace(message=self.method.decode(result.message))

  def _collect(self, result, context, sent):
    """What the method collects of a single message: mostly nothing."""
    if self.method.collect is None:
      return ()
    part = self.method.collect(result.message, context)
    kept = part, jnp.asarray(result.weight, jnp.float32), jnp.bool_(True)
    return divergence_lib.keep(sent, kept, jax.tree.map(jnp.zeros_like, kept))

  def client_step(self, state, federation, population, cohort, run_by=None):
    """A client's round, as a step for `run_clients`; maybe of a sub-cohort.

    The round of a client that diverges is undone, as if it had been absent.

    Returns:
      `(client_id, slot) -> (slot, Heard)`.
    """

    def step(client_id, slot):
      client, _, record = slot
      about = contexts.about_client(state, federation, population, client_id)
      result = self.result(
        state, federation, population, cohort, client_id, client, run_by
      )
      samples = federation.train.of_client(client_id).count
      tally = divergence_lib.judge(
        result,
        state.monitor,
        self.max_message_norm,
        samples=samples,
        plausible=self.method.plausible(result.message, samples),
      )
      counts = tally.heard > 0
      aggregate = self.method.receive(
        state.server, result.message, result.weight, about, cohort
      )
      part = self._collect(result, about, counts)
      sent = aggregate, result.metrics
      nothing = jax.tree.map(jnp.zeros_like, sent)
      aggregate, metrics = divergence_lib.keep(counts, sent, nothing)
      heard = Heard(aggregate, metrics, tally)
      client = divergence_lib.keep(counts, result.client, client)
      record = divergence_lib.recorded(record, tally, state.round)
      return (client, part, record), heard

    return step

  def slots(self, state, federation, population, cohort):
    """The clients' slots, with room for what is collected of each message."""
    clients, members = state.clients[cohort], state.members[cohort]
    records = state.divergence[cohort]
    if self.method.collect is None:
      return clients, (), records

    def part(client):
      result = self.result(
        state, federation, population, cohort, members[0], client
      )
      about = contexts.about_client(state, federation, population, members[0])
      return self._collect(result, about, jnp.bool_(True))

    shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], clients))
    parts = jax.tree.map(
      lambda x: jnp.zeros((members.shape[0], *x.shape), x.dtype), shapes
    )
    return clients, parts, records

  def _collected(self, state, cohort, part):
    if self.method.collect is None:
      return None
    members = state.members[cohort]
    parts, weights, sent = self.layout.gather(part)
    return api.Collected(
      jnp.where(sent, self.layout.gather(members), -1), parts, weights
    )

  def present(self, key, round_, population) -> jax.Array:
    """Who takes part in a round, bool `[clients]`."""
    return population.participation.present(key, round_, self.num_clients)

  def choose(self, state, population, cohort):
    """Which of this device's clients take part; None for all of its slots."""
    members = state.members[cohort]
    slots, participation = members.shape[0], population.participation
    if self.slots_are_participants:
      return clients_lib.choose(members >= 0, slots)
    if participation.is_everyone(self.num_clients):
      filled = self.layout.slots(self.sizes[cohort]) == self.sizes[cohort]
      return None if filled else clients_lib.choose(members >= 0, slots)
    takes_part = self.present(state.key, state.round, population)
    most = min(participation.most(self.num_clients), slots)
    return clients_lib.choose((members >= 0) & takes_part[members], most)

  def end(self, state, carries, public):
    """The server's step, from what each device summed and collected."""
    heard = self.layout.sum({name: carry[0] for name, carry in carries.items()})
    aggregates = {
      cohort: summed.aggregate._replace(
        collected=self._collected(state, cohort, carries[cohort][1])
      )
      for cohort in self.sizes  # Trees come back with their keys sorted.
      for summed in [heard[cohort]]
    }
    tally = jax.tree.map(
      lambda *parts: sum(parts), *(x.tally for x in heard.values())
    )
    metrics = jax.tree.map(
      lambda *parts: sum(parts) / tally.heard,
      *(x.metrics for x in heard.values()),
    )
    context = contexts.of_server(state, public)
    # Unchanged if nobody was heard.
    server = self.method.server_update(state.server, aggregates, context)
    step = divergence_lib.server_step(
      self.method.server_moves, state.server, server, tally.norms
    )
    fine = divergence_lib.sound(server)
    server = divergence_lib.keep(fine, server, state.server)
    state = state._replace(
      server=server,
      round=state.round + state.monitor.calibrated,
      monitor=divergence_lib.after_round(
        state.monitor, tally, self.num_clients, ~fine, state.round, step
      ),
    )
    return state, metrics | tally.metrics

  def zeros(self, state, federation, population):
    """{cohort: the carry when nobody has been heard}."""

    def zero(cohort):
      slots = self.slots(state, federation, population, cohort)
      step = self.client_step(state, federation, population, cohort)
      heard = clients_lib.zero_output(step, state.members[cohort], slots)
      return heard, slots[1]

    return {cohort: zero(cohort) for cohort in self.sizes}

  def run(self, state, zeros, federation, population):
    """All participants of all cohorts: (state, carries)."""
    clients, records, carries = {}, {}, {}
    for cohort in self.sizes:
      zero, parts = zeros[cohort]
      run = functools.partial(
        self._run_cohort, state, federation, population, cohort, zero
      )
      slots = state.clients[cohort], parts, state.divergence[cohort]
      if cohort not in self.sub_cohorts:
        slots, heard = run(slots, None)
      else:
        heard = zero
        for part in self.sub_cohorts[cohort]:
          slots, more = run(slots, part)
          heard = jax.tree.map(jnp.add, heard, more)
      clients[cohort], parts, records[cohort] = slots
      carries[cohort] = heard, parts
    return state._replace(clients=clients, divergence=records), carries

  def _run_cohort(
    self, state, federation, population, cohort, zero, slots, part
  ):
    """All participants of a cohort, or those of a part of it: (slots, heard).

    The state's own clients are those before the round; `slots` go on.
    """
    members = state.members[cohort]
    if part is None:
      chosen = self.choose(state, population, cohort)
    else:
      bits = population.spec.bits[members]
      of_part = jnp.isin(bits, jnp.array(part.clients.bits, bits.dtype))
      chosen = clients_lib.choose((members >= 0) & of_part, part.clients.count)
    return clients_lib.run_clients(
      self.client_step(state, federation, population, cohort, part),
      members,
      slots,
      chunk_size=self.layout.chunk_size,
      chosen=chosen,
      zero=zero,
    )

  def rounds(self, state, rounds, federation, population):
    """Several rounds, at least one: (state, metrics of the last).

    Before the very first, one more is run for its norms alone.
    """
    more = (~state.monitor.calibrated).astype(jnp.int32)
    return self.loop(state, rounds + more, federation, population)

  def loop(self, state, count, federation, population):
    """Likewise, so many with the one that is run for norms alone."""
    zeros = self.zeros(state, federation, population)

    def round_(state):
      state, carries = self.run(state, zeros, federation, population)
      return self.end(state, carries, federation.public)

    # All cohorts report the same metrics.
    nothing = next(iter(zeros.values()))[0]
    metrics = jax.tree.map(lambda x: x / nothing.tally.heard, nothing.metrics)
    metrics |= nothing.tally.metrics
    return jax.lax.fori_loop(
      0, count, lambda _, carry: round_(carry[0]), (state, metrics)
    )
