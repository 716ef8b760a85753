from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import fd
from quped_jax.methods.blocks import label_outputs
from quped_jax.methods.blocks.label_outputs import Outputs
from tests import alone, tiny

COHORT = tiny.COHORT
COUNTS = (23, 40, 64)


def assemble(*, steps=1, present=0, bits=(32,), **options):
  settings = tiny.make_settings(
    "fd",
    3,
    steps=steps,
    bits=bits,
    clients_per_round=present,
    method_options={"fd": options},
  )
  return tiny.assemble(settings, tiny.make_federation(COUNTS))


def run(made, rounds) -> list[Any]:
  """The states before the first round and after each."""
  states = [made.simulation.init(0)]
  # A round reuses the state's buffers.
  history = [tiny.to_host(states[0])]
  for _ in range(rounds):
    states[0], _ = made.simulation.run_round(states[0])
    history.append(tiny.to_host(states[0]))
  return history


def batch_of(made, state, client_id):
  """The first batch of a client in the round that follows."""
  key = jax.random.wrap_key_data(state.key)
  key = jax.random.fold_in(jax.random.fold_in(key, state.round), client_id)
  data = made.federation.client(jnp.int32(client_id))
  positions = data.draw(jax.random.split(key)[0], 1, tiny.BATCH)[0]
  return data.batch(positions)


def hand_outputs(made, state, client_id):
  """Sums and counts by label, computed sample by sample."""
  batch = batch_of(made, state, client_id)
  params = tiny.client(state.clients[COHORT].learner.params, client_id)
  logits = np.asarray(alone.logits(made.model, params, batch), np.float64)
  sums = np.zeros((tiny.CLASSES, tiny.CLASSES))
  counts = np.zeros(tiny.CLASSES)
  for row, label in zip(logits, np.asarray(batch.labels), strict=True):
    sums[label] += np.exp(row) / np.exp(row).sum()
    counts[label] += 1
  return sums, counts


def sum_up(parts):
  return np.sum(np.stack(parts), axis=0)


@pytest.fixture(scope="module")
def rounds():
  """Two rounds of one step each, by three clients, and what they sent."""
  made = assemble(gamma=0.7)
  states = run(made, 2)
  sent = [hand_outputs(made, states[0], i) for i in range(3)]
  return made, states, sent


@pytest.mark.slow
def test_the_server_holds_the_sums_of_the_last_round_alone(rounds):
  made, states, sent = rounds
  for state, expected in (
    (states[1], sent),
    (states[2], [hand_outputs(made, states[1], i) for i in range(3)]),
  ):
    sums, counts = map(sum_up, zip(*expected, strict=True))
    np.testing.assert_allclose(state.server.outputs.sums, sums, rtol=1e-4)
    np.testing.assert_array_equal(state.server.outputs.counts, counts)
  assert [int(state.server.round) for state in states] == [-1, 0, 1]


@pytest.mark.slow
def test_each_client_learns_from_the_mean_over_the_others(rounds):
  made, states, sent = rounds
  for i in range(3):
    rest_of_all = [sent[j] for j in range(3) if j != i]
    sums, counts = map(sum_up, zip(*rest_of_all, strict=True))
    client = tiny.client(states[1].clients[COHORT], i)
    rest = fd.others(states[1].server, client)
    np.testing.assert_allclose(rest.sums, sums, atol=1e-5)
    np.testing.assert_array_equal(rest.counts, counts)
    batch = batch_of(made, states[1], i)

    def loss(params, batch=batch, sums=sums, counts=counts):
      logits = alone.logits(made.model, params, batch)
      logs = jax.nn.log_softmax(logits)
      total = alone.labels_loss(logits, batch.labels)
      for row, label in enumerate(np.asarray(batch.labels)):
        if counts[label]:
          mean = sums[label] / counts[label]
          total -= 0.7 * jnp.sum(mean * logs[row]) / tiny.BATCH
      return total

    params = client.learner.params
    expected = alone.descend(params, jax.jit(jax.grad(loss))(params), 0.1)
    new = tiny.client(states[2].clients[COHORT].learner.params, i)
    assert tiny.largest_difference(new, expected) < 1e-5


@pytest.mark.slow
def test_who_was_not_in_the_last_round_subtracts_nothing():
  made = assemble(present=2)
  states = run(made, 4)
  absences = 0
  for before, after in zip(states, states[1:], strict=False):
    outputs, clients = after.server.outputs, after.clients[COHORT]
    assert outputs.counts.sum() == 2 * tiny.BATCH
    for i in range(3):
      client = tiny.client(clients, i)
      own = hand_outputs(made, before, i)
      rest = fd.others(after.server, client)
      if client.round == after.server.round:
        expected = outputs.sums - own[0], outputs.counts - own[1]
      else:
        absences += 1
        expected = outputs
      np.testing.assert_allclose(rest.sums, expected[0], atol=1e-5)
      np.testing.assert_array_equal(rest.counts, expected[1])
  assert absences == 4
  # Some of the absent clients had sent something before.
  assert any(
    np.any((s.clients[COHORT].round >= 0) & (s.clients[COHORT].round < i))
    for i, s in enumerate(states[1:])
  )


@pytest.fixture(scope="module")
def untaught():
  return run(assemble(gamma=0.0), 2)


@pytest.mark.slow
def test_without_weight_it_is_local_training(untaught):
  settings = tiny.make_settings("local", 3, steps=1, bits=(32,))
  local = run(tiny.assemble(settings, tiny.make_federation(COUNTS)), 2)[-1]
  own = untaught[-1].clients[COHORT].learner
  assert tiny.largest_difference(own, local.clients[COHORT]) < 1e-6


@pytest.mark.slow
def test_a_quantized_client_without_weight_is_that_of_local_training():
  made = alone.make("fd", bits=2, gamma=0.0)
  taught = made.init(jax.random.key(0))[1]._replace(
    outputs=Outputs(jnp.ones((4, 4)), jnp.full(4, 4.0))
  )
  own = alone.play(made, download=taught).result.client.learner
  local = alone.play(alone.make("local", bits=2), download=()).result.client
  assert tiny.largest_difference(own, local) < 1e-6
  changed = alone.play(alone.make("fd", bits=2, gamma=1.0), download=taught)
  changed = changed.result.client.learner
  assert tiny.largest_difference(own.params, changed.params) > 1e-3


def test_in_the_first_round_nobody_teaches(rounds, untaught):
  one, other = (
    [state.clients[COHORT].learner for state in states]
    for states in (rounds[1], untaught)
  )
  assert tiny.largest_difference(one[1], other[1]) < 1e-7
  assert tiny.largest_difference(one[2], other[2]) > 1e-3


def test_a_label_that_nobody_else_holds_has_no_term():
  logits = jax.random.normal(jax.random.key(0), (6, 3))
  labels = jnp.array([0, 1, 2, 2, 1, 0])
  sums = jnp.array([[1.0, 2.0, 1.0], [1e-7, -1e-7, 0.0], [0.2, 0.3, 0.5]])
  outputs = Outputs(sums, jnp.array([4.0, 0.0, 1.0]))
  loss, grads = jax.value_and_grad(label_outputs.taught_loss)(
    logits, labels, outputs
  )
  logs = np.asarray(jax.nn.log_softmax(logits))
  held = np.array([True, False, True, True, False, True])
  means = np.array([[0.25, 0.5, 0.25], [0, 0, 0], [0.2, 0.3, 0.5]])
  losses = -np.sum(means[labels] * logs, axis=1)
  np.testing.assert_allclose(loss, losses[held].sum() / 6, rtol=1e-5)
  np.testing.assert_array_equal(grads[~held], 0)
  assert np.all(np.abs(grads[held]).sum(axis=1) > 1e-3)


@pytest.mark.slow
def test_outputs_are_collected_over_all_local_steps():
  made = alone.make("fd", steps=3)
  result = alone.play(made).result
  np.testing.assert_array_equal(result.message.counts.sum(), 3 * tiny.BATCH)
  np.testing.assert_allclose(
    result.message.sums.sum(axis=1), result.message.counts, rtol=1e-5
  )
  # Steps that a straggler does not take add no outputs.
  context = made.context._replace(num_steps=jnp.int32(1))
  _, download, client = made.init(jax.random.key(1))
  short = jax.jit(
    lambda: made.method.client_update(
      download, client, made.data, context, COHORT
    )
  )()
  np.testing.assert_array_equal(short.message.counts.sum(), tiny.BATCH)


def test_a_server_that_hears_nobody_stays_as_it_is(rounds):
  made, states, _ = rounds
  server = states[2].server
  nothing = made.method.receive(server, server.outputs, 0.0, None, COHORT)
  context = alone.make("fd").context._replace(round=jnp.int32(9))
  after = made.method.server_update(server, {COHORT: nothing}, context)
  jax.tree.map(np.testing.assert_array_equal, after, server)


def test_no_model_travels(rounds):
  simulation = rounds[0].simulation
  size = 4 * (tiny.CLASSES**2 + tiny.CLASSES)
  assert simulation.bytes_up == size
  assert simulation.bytes_down == size + 4  # The round's number.
  assert rounds[0].method.global_model is None
  assert simulation.gradients == 1


@pytest.mark.slow
def test_outputs_of_any_architecture_have_one_shape():
  for own in (alone.mlp(16, 8), alone.linear()):
    result = alone.play(alone.make("fd", own=own)).result
    chex.assert_shape(result.message.sums, (tiny.CLASSES, tiny.CLASSES))


def test_the_fine_tuning_phase_freezes_the_learner():
  made = alone.make("fd", bits=2)
  freeze = made.method.begin_finetune
  assert freeze is not None
  client = freeze(alone.start(made))
  assert client.learner.assignments is not None
  result = alone.play(made, client).result
  assert np.isfinite(result.message.sums).all()


@pytest.mark.slow
def test_clients_of_any_precision_learn():
  alone.check_learning("fd")


def test_wrong_options_are_errors():
  with pytest.raises(ValueError, match="fd.gamma=-1.0: must be at least 0"):
    qj.Settings(method_options={"fd": {"gamma": -1.0}})
