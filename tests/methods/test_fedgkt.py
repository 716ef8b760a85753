import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT
COUNTS = (5, 23, 17)
MOST, WIDTH, CLASSES = 23, 8, tiny.CLASSES


@pytest.fixture(scope="module")
def federation():
  return tiny.make_federation(COUNTS)


def make(federation, **options):
  model = publics.make_model((8, WIDTH))
  options = {"hidden": (16,), **options}
  made = publics.make_method("fedgkt", federation, model=model, **options)
  return made, model, made.init_server(jax.random.key(0), federation.example())


def play(made, federation, server, client_id, context=None, logits=None):
  """A client's round, from its first state: (the state, the result)."""
  context = context or publics.make_context(federation, client_id)
  download = made.broadcast(server, context, COHORT)
  download = download if logits is None else logits
  start = made.init_client(
    jax.random.key(0),
    federation.example(),
    server,
    context.client_id,
    context.spec,
    COHORT,
  )

  @jax.jit
  def update(download, client_id):
    data = federation.client(client_id)
    return made.client_update(download, start, data, context, COHORT)

  return start, update(download, context.client_id)


def received(made, server, messages, ids):
  """What the server receives of some clients' messages; -1 is an empty slot."""
  weights = [float(i >= 0) for i in ids]
  sums = [
    made.receive(server, m, w, None, COHORT)
    for m, w in zip(messages, weights, strict=True)
  ]
  parts = jax.tree.map(lambda *x: jnp.stack(x), *messages)
  sent = jnp.asarray(weights, bool)
  blank = jax.tree.map(
    lambda x: jnp.where(sent.reshape(-1, *(1,) * (x.ndim - 1)), x, 0), parts
  )
  total = jax.tree.map(lambda *x: sum(x), *sums)
  collected = api.Collected(jnp.asarray(ids), blank, jnp.asarray(weights))
  return {COHORT: total._replace(collected=collected)}


@pytest.mark.slow
def test_a_client_sends_features_and_logits_of_all_its_samples(federation):
  made, model, server = make(federation)
  _, result = play(made, federation, server, 2)
  message, params = result.message, result.client.params
  chex.assert_shape(message.features, (MOST, WIDTH))
  chex.assert_shape(message.logits, (MOST, CLASSES))
  assert message.count == 17
  data = federation.client(jnp.int32(2))
  batch = data.batch(jnp.arange(17))
  x = batch.inputs
  for name in ("first", "hidden_1"):
    x = jnp.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
  np.testing.assert_allclose(message.features[:17], x, atol=1e-5)
  logits, _ = model.apply(params, {}, batch.inputs, False)
  np.testing.assert_allclose(message.logits[:17], logits, atol=1e-5)
  np.testing.assert_array_equal(message.labels[:17], batch.labels)


@pytest.mark.slow
def test_a_client_learns_from_labels_and_the_servers_logits(federation):
  """One step, written out; each sample uses the logits of its position."""
  made, model, server = make(federation, weight=0.7, temperature=2.0)
  context = publics.make_context(federation, 2)
  context = context._replace(num_steps=jnp.int32(1))
  teachers = jax.random.normal(jax.random.key(5), (MOST, CLASSES))
  start, result = play(made, federation, server, 2, context, teachers)
  data = federation.client(jnp.int32(2))
  key, _ = jax.random.split(context.key)
  positions = data.draw(key, 5, tiny.BATCH)[0]
  batch = data.batch(positions)

  def loss(params):
    logits, _ = model.apply(params, {}, batch.inputs, True)
    chosen = jax.nn.log_softmax(logits)[jnp.arange(tiny.BATCH), batch.labels]
    p = jax.nn.softmax(teachers[positions] / 2)
    q = jax.nn.softmax(logits / 2)
    kl = jnp.mean(jnp.sum(p * jnp.log(p / q), axis=1))
    return -jnp.mean(chosen) + 0.7 * 4 * kl

  expected = jax.tree.map(
    lambda p, g: p - 0.1 * g, start.params, jax.grad(loss)(start.params)
  )
  assert tiny.largest_difference(result.client.params, expected) < 1e-6
  assert tiny.largest_difference(start.params, expected) > 1e-2


@pytest.mark.slow
def test_a_first_round_is_local_training(federation):
  own, _ = publics.play(publics.simulate("fedgkt", federation), 1)
  local, _ = publics.play(publics.simulate("local", federation), 1)
  mine, theirs = (s.clients[COHORT].params for s in (own, local))
  assert tiny.largest_difference(mine, theirs) < 1e-6


@pytest.mark.slow
def test_the_server_learns_what_it_received_and_keeps_the_rest(federation):
  made, _, server = make(
    federation, server_steps=200, server_learning_rate=3e-3
  )
  context = publics.make_context(federation)
  messages = [play(made, federation, server, i)[1].message for i in (2, 0)]
  update = jax.jit(made.server_update)
  # Slots in another order than the clients; the second is empty.
  heard = received(made, server, [messages[0], messages[1]], (2, -1))
  new = update(server, heard, context)
  rows = np.any(np.asarray(new.logits) != 0, axis=(1, 2))
  np.testing.assert_array_equal(rows, [False, False, True])
  sent = messages[0]
  hits = np.argmax(new.logits[2], axis=1) == np.asarray(sent.labels)
  assert np.mean(hits[:17]) > 0.8
  # The table holds the network's outputs for the features that were sent.
  x = np.asarray(sent.features)
  for name in ("first", "last"):
    layer = new.network[name]
    x = x @ layer["kernel"] + layer["bias"]
    x = x if name == "last" else np.maximum(x, 0)
  np.testing.assert_allclose(new.logits[2][:17], x[:17], atol=1e-4)
  # The next round's client gets its logits; absent clients keep theirs.
  np.testing.assert_array_equal(
    made.broadcast(new, context._replace(client_id=2), COHORT), new.logits[2]
  )
  heard = received(made, new, [messages[1], messages[1]], (0, -1))
  later = update(new, heard, context)
  np.testing.assert_array_equal(later.logits[2], new.logits[2])
  assert np.any(later.logits[0] != 0)
  nobody = received(made, new, messages, (-1, -1))
  after = update(new, nobody, context)
  assert tiny.largest_difference(after, new) == 0


@pytest.mark.slow
def test_padding_is_never_learned_from(federation):
  made, _, server = make(federation, server_steps=20)
  context = publics.make_context(federation)
  message = play(made, federation, server, 0)[1].message
  assert message.count == 5
  wrong = message._replace(
    features=message.features.at[5:].set(1e3),
    labels=(message.labels + 1).at[:5].set(message.labels[:5]) % CLASSES,
  )
  update = jax.jit(made.server_update)
  ends = [
    update(server, received(made, server, [m], (0,)), context)
    for m in (message, wrong)
  ]
  assert tiny.largest_difference(ends[0].network, ends[1].network) == 0
  assert tiny.largest_difference(ends[0].network, server.network) > 1e-3


def test_messages_are_counted_padded(federation):
  simulation = publics.simulate("fedgkt", federation)
  assert simulation.bytes_down == 4 * MOST * CLASSES
  assert simulation.bytes_up == 4 * MOST * (WIDTH + CLASSES + 1) + 4


@pytest.mark.slow
def test_clients_of_all_precisions_learn():
  publics.check_learns("fedgkt")


@pytest.mark.slow
def test_some_clients_may_stay_away(federation):
  simulation = publics.simulate(
    "fedgkt", federation, settings={"clients_per_round": 2}, server_steps=5
  )
  state, _ = publics.play(simulation, 1)
  rows = np.any(np.asarray(state.server.logits) != 0, axis=(1, 2))
  assert rows.sum() == 2
  assert simulation.primary_variant == "quantized"


def test_models_need_features(federation):
  whole = publics.make_model()._replace(features=None)
  with pytest.raises(ValueError, match="model='mlp': must have `features`"):
    publics.make_method("fedgkt", federation, model=whole)
  assert make(federation)[0].global_model is None


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("weight", -1.0, "weight=-1.0: must be at least 0"),
    ("temperature", 0.0, "temperature=0.0: must be positive"),
    ("hidden", (4, 0), "hidden=0: must be at least 1"),
    ("server_steps", 0, "server_steps=0: must be at least 1"),
    ("server_learning_rate", 0.0, "server_learning_rate=0.0: must be pos"),
    ("server_optimizer", "x", "server_optimizer='x': must be one of sgd"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedgkt.{message}"):
    qj.Settings(method_options={"fedgkt": {option: value}})
