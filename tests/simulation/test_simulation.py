import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_schedule
from quped_jax.methods import api
from quped_jax.simulation import placement
from quped_jax.simulation.participation import Participation
from quped_jax.simulation.simulation import make_simulation
from quped_jax.simulation.state import Population
from tests import tiny

COHORT = tiny.COHORT


def centers(state):
  books = tiny.books(state.clients[COHORT].codebooks)
  return np.concatenate([np.asarray(b.centers) for b in books.values()], 1)


@pytest.mark.long
def test_the_compilers_optimizations_change_roundings_alone():
  """Tests compile with few of them; what users run has them all."""
  config: Any = jax.config  # Whose fields type checkers do not know.
  few = tiny.tiny("quped", bits=tiny.FEW)
  ends = [tiny.to_host(few.play(2))]
  config.update("jax_disable_most_optimizations", False)
  try:
    full = tiny.assemble(few.settings)
    ends.append(tiny.to_host(full.play(2)))
  finally:
    config.update("jax_disable_most_optimizations", True)
  assert full.simulation.program.compilations == 1
  assert tiny.largest_difference(*ends) < 2e-5
  start = tiny.to_host(few.state())
  assert tiny.largest_difference(start.clients, ends[1].clients) > 1e-2


def key_method():
  """A method whose clients only keep the key of their round."""

  def client_update(download, client, data, context, cohort):
    del download, data, cohort
    key = jax.random.key_data(context.key)
    return api.ClientResult(
      {"key": key, "round": context.round}, (), 1.0, {"id": context.client_id}
    )

  return api.FederatedMethod(
    init_server=lambda key, inputs: (),
    init_client=lambda key, *_: {
      "key": jax.random.key_data(key),
      "round": jnp.int32(-1),
    },
    broadcast=lambda *_: (),
    client_update=client_update,
    server_update=lambda server, aggregates, context: server,
    variants=lambda *_: {},
    primary_variant="",
  )


def population(num_clients, **participation):
  ones = jnp.ones(num_clients)
  return Population(
    api.ClientSpec(jnp.full(num_clients, 32)),
    qj.Rates(ones, ones, ones),
    1.0,
    Participation(**participation),
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    {"strategy": "vmap"},
    {"strategy": "chunks", "chunk_size": 2},
    {"strategy": "dispatch"},
    {"strategy": "vmap", "devices": 2},
    {"strategy": "dispatch", "devices": 3},
  ],
)
def test_the_key_of_client_i_in_round_r_is_folded_in_twice(how):
  federation = tiny.make_federation((9, 9, 9))
  simulation = make_simulation(
    key_method(), federation, population(3), {"all": np.arange(3)}, **how
  )
  state = simulation.init(7)
  root = jax.random.key(7)
  for round_ in range(3):
    state, metrics = simulation.run_round(state)
    assert float(metrics["id"]) == 1.0
    assert int(state.round) == round_ + 1
    for i in range(3):
      key = jax.random.fold_in(jax.random.fold_in(root, round_), i)
      np.testing.assert_array_equal(
        state.clients["all"]["key"][i], jax.random.key_data(key)
      )
  assert simulation.program.compilations == 1


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["vmap", "chunks", "dispatch"])
def test_the_same_clients_take_part_however_they_are_run(strategy, devices):
  federation = tiny.make_federation((9,) * 7)
  simulation = make_simulation(
    key_method(),
    federation,
    population(7, count=4),
    {"all": np.arange(7)},
    strategy=strategy,
    devices=devices,
  )
  state = simulation.init(7)
  for round_ in range(3):
    state, metrics = simulation.run_round(state)
    key = jax.random.fold_in(jax.random.key(7), round_)
    order = jax.random.permutation(jax.random.fold_in(key, 2**31 - 2), 7)
    last = np.asarray(state.clients["all"]["round"])[:7]
    assert np.flatnonzero(last == round_).tolist() == sorted(order[:4].tolist())
    assert float(metrics["id"]) == np.mean(np.asarray(order[:4]))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices():
  made = [
    tiny.tiny("fedavg", num_clients=3, bits=(32,), devices=devices)
    for devices in (1, 2)
  ]
  expected = tiny.to_host(made[0].play(3))
  state = made[0].state()
  for one in (made[0], made[1], made[0]):
    state, metrics = one.simulation.run_round(state)
    assert state.members[COHORT].shape[0] == one.simulation.layout.slots(3)
  assert len(state.round.devices()) == 1
  assert tiny.largest_difference(tiny.to_host(state), expected) < 1e-5


@pytest.mark.slow
def test_padded_slots_are_nobodys():
  made = tiny.tiny("local", num_clients=3, bits=(1,), devices=2)
  one = tiny.tiny("local", num_clients=3, bits=(1,))
  state, _ = made.simulation.run_round(made.simulation.init(0))
  state = made.simulation.begin_finetune(state)
  table = made.simulation.evaluate(state)["test"]
  alone = one.simulation.evaluate(state)["test"]
  for name, values in table.items():
    np.testing.assert_array_equal(values, alone[name])
    assert values.shape == (3,)
  kernel = qj.client_state(state, 2).params["first"]["kernel"]
  np.testing.assert_array_equal(
    kernel, state.clients[COHORT].params["first"]["kernel"][2]
  )
  for wrong in (-1, 3):
    with pytest.raises(ValueError, match=f"client_id={wrong}: must be from 0"):
      qj.client_state(state, wrong)
  nothing: Any = None
  with pytest.raises(ValueError, match="state=NoneType: must be a state, such"):
    qj.client_state(nothing, 0)


@pytest.mark.slow
def test_only_sums_cross_between_devices():
  made = tiny.tiny("fedavg", devices=2)
  simulation, layout = made.simulation, made.simulation.layout
  groups = layout.groups([np.arange(made.federation.num_clients)])
  federation, _ = placement.place(made.federation, layout, groups)
  rounds, population = layout.place(
    (jnp.int32(1), made.population), jax.sharding.PartitionSpec()
  )
  state = simulation.init(0)
  compiled = simulation.program.compile(state, rounds, federation, population)
  text = compiled.as_text()
  assert text
  names = ("gather", "permute", "to-all", "scatter", "broadcast")
  assert "all-reduce" in text
  for name in names:
    for collective in (f"all-{name}", f"collective-{name}", f"reduce-{name}"):
      assert collective not in text


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("strategy", ["vmap", "dispatch"])
def test_cohorts_keep_their_clients_numbers_whatever_their_order(
  strategy, devices
):
  federation = tiny.make_federation((9, 9, 9))
  cohorts = {"big": np.array([2, 0]), "small": np.array([1])}
  simulation = make_simulation(
    key_method(),
    federation,
    population(3),
    cohorts,
    strategy=strategy,
    devices=devices,
  )
  state, metrics = simulation.run_round(simulation.init(7))
  assert float(metrics["id"]) == 1.0
  round_key = jax.random.fold_in(jax.random.key(7), 0)
  for name, members in cohorts.items():
    for place, i in enumerate(members):
      np.testing.assert_array_equal(
        state.clients[name]["key"][place],
        jax.random.key_data(jax.random.fold_in(round_key, int(i))),
      )


@pytest.mark.parametrize(
  ("cohorts", "clients_per_round", "message"),
  [
    ({"a": [0, 1]}, None, "cohorts: must hold each of the 3 clients once"),
    ({"a": [0, 1], "b": [1, 2]}, None, "cohorts: must hold"),
    ({"a": [0, 1, 2]}, 4, "clients_per_round=4: must be from 1 to 3"),
    ({"a": [0, 1, 2]}, 0, "clients_per_round=0: must be from 1 to 3"),
  ],
)
def test_wrong_cohorts_and_participants_are_errors(
  cohorts, clients_per_round, message
):
  federation = tiny.make_federation((9, 9, 9))
  cohorts = {name: np.array(ids) for name, ids in cohorts.items()}
  with pytest.raises(ValueError, match=message):
    make_simulation(
      key_method(),
      federation,
      population(3, count=clients_per_round),
      cohorts,
    )


def test_memory_is_that_of_each_device():
  one, two = (
    tiny.assemble(tiny.make_settings("local", 5, bits=(32,), devices=devices))
    for devices in (1, 2)
  )
  assert two.simulation.layout.devices == 2
  assert two.simulation.memory < one.simulation.memory


def test_a_method_without_fine_tuning_says_so():
  federation = tiny.make_federation((9, 9))
  simulation = make_simulation(
    key_method(), federation, population(2), {"all": np.arange(2)}
  )
  with pytest.raises(ValueError, match="finetune_at=0: must be 0"):
    simulation.begin_finetune(simulation.init(0))


@pytest.fixture(scope="module")
def partial():
  """FedAvg with two of five clients per round, and rounds of it."""
  made = tiny.tiny("fedavg", bits=(1, 2), clients_per_round=2)
  state, states = made.state(), []
  for _ in range(61):
    states.append(tiny.to_host(state))
    state, _ = made.simulation.run_round(state)
  return made, states


def took_part(before, after):
  return np.any(centers(before) != centers(after), axis=1)


@pytest.mark.slow
def test_the_state_of_others_is_untouched_to_the_bit(partial):
  _, states = partial
  for before, after in zip(states[:20], states[1:], strict=False):
    present = took_part(before, after)
    assert present.sum() == 2
    for x, y in zip(
      jax.tree.leaves(before.clients),
      jax.tree.leaves(after.clients),
      strict=True,
    ):
      np.testing.assert_array_equal(x[~present], y[~present])


@pytest.mark.slow
def test_participants_change_and_are_chosen_uniformly(partial):
  _, states = partial
  rounds = [took_part(a, b) for a, b in zip(states, states[1:], strict=False)]
  assert len(rounds) == 60
  times = np.sum(rounds, axis=0)
  # 60 rounds of 2 in 5: expected 24, standard deviation 3.8.
  assert np.all(abs(times - 24) < 15)
  assert len({tuple(r) for r in rounds}) == 10


def test_the_mean_is_over_the_participants(partial):
  made, states = partial
  method, data = made.method, made.federation

  @jax.jit
  def update(state, client_id):
    context = context_of(made, state, client_id)
    client = tiny.client(state.clients[COHORT], client_id)
    result = method.client_update(
      state.server.model, client, data.client(client_id), context, COHORT
    )
    return result.message.params

  before, after = states[2], states[3]
  present = np.flatnonzero(took_part(before, after))
  state = tiny.from_host(before)
  messages = [update(state, jnp.int32(i)) for i in present]
  shares = np.array([tiny.COUNTS[i] for i in present], np.float64)
  shares /= shares.sum()
  mean = jax.tree.map(
    lambda *parts: sum(s * p for s, p in zip(shares, parts, strict=True)),
    *messages,
  )
  expected = jax.tree.map(jnp.add, before.server.model.params, mean)
  assert tiny.largest_difference(after.server.model.params, expected) < 1e-6
  moved = tiny.largest_difference(
    after.server.model.params, before.server.model.params
  )
  assert moved > 1e-3


def context_of(made, state, client_id):
  spec, base = made.population.of_client(client_id)
  rates, shared = make_schedule(made.settings).rates(
    base, made.population.shared_learning_rate, state.round
  )
  key = jax.random.fold_in(state.key, state.round)
  key = jax.random.fold_in(key, client_id)
  return api.Context(state.round, key, client_id, spec, rates, shared)


def test_a_straggler_does_fewer_steps():
  made = tiny.tiny("local", bits=(32,))
  short = dataclasses.replace(made.settings, steps=2)
  few = tiny.make_method(short, made.model)

  def update(method, num_steps):
    @jax.jit
    def run(state):
      context = context_of(made, state, jnp.int32(2))
      client = tiny.client(state.clients[COHORT], 2)
      return method.client_update(
        (),
        client,
        made.federation.client(jnp.int32(2)),
        context._replace(num_steps=num_steps),
        COHORT,
      ).client

    return run(made.state())

  # The first batches of an epoch are the same however many follow.
  masked, plain = update(made.method, jnp.int32(2)), update(few, None)
  assert tiny.largest_difference(masked.params, plain.params) < 1e-6
  start = made.state().clients[COHORT].params
  assert tiny.largest_difference(plain.params, tiny.client(start, 2)) > 1e-2


def test_the_table_of_accuracies_is_by_client():
  made = tiny.tiny("local")
  state = made.play(1)
  table = made.simulation.evaluate(state)
  assert set(table) == {"test"}
  assert set(table["test"]) == {"personalized", "quantized"}
  federation = made.federation
  for name, values in table["test"].items():
    assert values.shape == (len(tiny.COUNTS),)
    i = 3
    params = tiny.client(state.clients[COHORT].params, i)
    if name == "quantized":
      books = tiny.client(state.clients[COHORT].codebooks, i)
      params = qj.hard_quantize_tree(params, books)
    batch = federation.client(jnp.int32(i)).batch(jnp.arange(20), "test")
    logits, _ = made.model.apply(params, {}, batch.inputs, False)
    hits = np.argmax(logits, axis=-1) == np.asarray(batch.labels)
    np.testing.assert_allclose(values[i], hits.mean(), rtol=1e-6)


def test_evaluation_does_not_change_with_how_many_run_at_once():
  made = tiny.tiny("local")
  state = made.play(1)
  tables = [made.simulation.evaluate(state)["test"]]
  for how in ({"strategy": "vmap"}, {"strategy": "chunks", "chunk_size": 3}):
    settings = dataclasses.replace(made.settings, **how)
    other = tiny.assemble(settings, made.federation, made.model)
    tables.append(other.simulation.evaluate(state)["test"])
  for table in tables[1:]:
    for name, values in table.items():
      np.testing.assert_array_equal(values, tables[0][name])


def test_a_program_knows_what_it_took_and_what_it_needs():
  program = tiny.tiny("local").simulation.program
  tiny.tiny("local").play(1)
  assert program.compile_seconds > 0
  assert program.memory > 0


def collecting_method():
  """A method whose server keeps each sender, its message and its weight."""

  def client_update(download, client, data, context, cohort):
    del download, data, cohort
    sent = {"id": context.client_id + 10, "round": context.round}
    return api.ClientResult(client, sent, context.client_id + 1.0, {})

  def server_update(server, aggregates, context):
    del server, context
    collected = aggregates["all"].collected
    return {
      "clients": collected.clients,
      "ids": collected.parts,
      "weights": collected.weights,
      "total": aggregates["all"].weight,
    }

  def init_server(key, inputs):
    return {
      "clients": jnp.full(8, -1, jnp.int32),
      "ids": jnp.zeros(8, jnp.int32),
      "weights": jnp.zeros(8),
      "total": jnp.zeros(()),
    }

  return api.FederatedMethod(
    init_server=init_server,
    init_client=lambda key, *_: jnp.zeros(()),
    broadcast=lambda *_: (),
    client_update=client_update,
    server_update=server_update,
    variants=lambda *_: {},
    primary_variant="",
    collect=lambda message, context: message["id"],
  )


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["vmap", "chunks", "dispatch"])
def test_single_messages_reach_the_server_if_it_asks(strategy, devices):
  simulation = make_simulation(
    collecting_method(),
    tiny.make_federation((9,) * 8),
    population(8, count=5),
    {"all": np.arange(8)},
    strategy=strategy,
    chunk_size=3,
    devices=devices,
  )
  state = simulation.init(3)
  for round_ in range(2):
    state, _ = simulation.run_round(state)
    key = jax.random.fold_in(jax.random.key(3), round_)
    order = jax.random.permutation(jax.random.fold_in(key, 2**31 - 2), 8)
    present = sorted(np.asarray(order[:5]).tolist())
    server = jax.device_get(state.server)
    sent = server["clients"] >= 0
    assert server["clients"][sent].tolist() == present
    assert server["ids"][sent].tolist() == [i + 10 for i in present]
    assert server["weights"][sent].tolist() == [i + 1 for i in present]
    assert not server["ids"][~sent].any() and not server["weights"][~sent].any()
    assert server["total"] == sum(i + 1 for i in present)
