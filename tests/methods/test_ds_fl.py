import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods.blocks import soft_labels
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation(labelled=False)


def entropy(p):
  return float(-np.sum(p * np.log(np.maximum(p, 1e-30))))


def test_sharpening_lowers_the_entropy_down_to_the_largest_entry():
  p = jnp.array([0.35, 0.3, 0.2, 0.15])
  temperatures = (1e-3, 0.05, 0.1, 0.3, 1.0, 100.0)
  sharp = [soft_labels.sharpen(p, t) for t in temperatures]
  entropies = [entropy(np.asarray(s)) for s in sharp]
  assert np.all(np.diff(entropies) > 0)
  np.testing.assert_allclose(sharp[0], [1, 0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(sharp[-1], np.full(4, 0.25), atol=1e-2)
  # At T = 0.1: proportional to exp(10 p).
  by_hand = np.exp(10 * np.asarray(p)) / np.exp(10 * np.asarray(p)).sum()
  np.testing.assert_allclose(sharp[2], by_hand, rtol=1e-5)


def make(federation, **options):
  model = publics.make_model()
  made = publics.make_method("ds_fl", federation, model=model, **options)
  server = made.init_server(jax.random.key(0), federation.example())
  return made, model, server, publics.make_context(federation)


def test_the_server_sharpens_the_mean_and_distils_it(federation):
  made, model, server, context = make(federation, distill_steps=80)
  shape = (publics.SIZE, tiny.CLASSES)
  sent = [
    jax.nn.softmax(2 * jax.random.normal(jax.random.key(i), shape))
    for i in range(2)
  ]
  sums = [
    made.receive(server, message, weight, context, COHORT)
    for message, weight in zip(sent, (3.0, 1.0), strict=True)
  ]
  total = jax.tree.map(jnp.add, *sums)
  new = jax.jit(made.server_update)(server, {COHORT: total}, context)
  mean = (3 * sent[0] + sent[1]) / 4
  expected = np.exp(10 * mean) / np.exp(10 * mean).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(new.download.targets, expected, rtol=1e-4)
  inputs = federation.public.data().batch(jnp.arange(publics.SIZE)).inputs
  losses = []
  for state in (server, new):
    logits, _ = model.apply(state.model.params, {}, inputs, False)
    losses.append(-np.mean(np.sum(expected * jax.nn.log_softmax(logits), 1)))
  assert losses[1] < 0.95 * losses[0]
  # A round in which no client sends changes nothing.
  nobody = jax.tree.map(jnp.zeros_like, total)
  after = jax.jit(made.server_update)(new, {COHORT: nobody}, context)
  assert tiny.largest_difference(after, new) == 0


def test_a_client_learns_from_labels_that_it_receives(federation):
  made, model, server, context = make(federation, digest_steps=40)
  start = made.init_client(
    jax.random.key(0),
    federation.example(),
    server,
    context.client_id,
    context.spec,
    COHORT,
  )
  # All of the server's targets are of one class, unlike the client's outputs.
  targets = jax.nn.one_hot(jnp.full(publics.SIZE, 2), tiny.CLASSES)
  download = made.broadcast(server, context, COHORT)
  still = context._replace(num_steps=jnp.int32(0))

  @jax.jit
  def play(download):
    data = federation.client(context.client_id)
    return made.client_update(download, start, data, still, COHORT)

  first = play(download)
  taught = play(download._replace(targets=targets))
  # The first round has nothing to digest, and here no local steps either.
  assert tiny.largest_difference(first.client.params, start.params) == 0
  assert np.mean(np.argmax(taught.message, axis=1) == 2) > 0.95
  np.testing.assert_allclose(np.sum(taught.message, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_without_digestion_clients_train_alone(federation):
  own, _ = publics.play(
    publics.simulate("ds_fl", federation, digest_steps=0), 2
  )
  local, _ = publics.play(publics.simulate("local", federation), 2)
  params = [state.clients[COHORT].params for state in (own, local)]
  assert tiny.largest_difference(*params) < 1e-6
  taught, _ = publics.play(publics.simulate("ds_fl", federation), 2)
  other = taught.clients[COHORT].params
  assert tiny.largest_difference(other, params[1]) > 1e-3


@pytest.mark.slow
def test_every_round_has_public_samples_of_its_own(federation):
  simulation = publics.simulate("ds_fl", federation, public_samples=7)
  floats, rows = 7 * tiny.CLASSES * 4, 7 * 4
  assert simulation.bytes_up == floats
  assert simulation.bytes_down == floats + 2 * rows
  state = simulation.init(0)
  asked = [np.asarray(state.server.download.next_rows)]
  for _ in range(2):
    state, _ = simulation.run_round(state)
    download = state.server.download
    np.testing.assert_array_equal(download.rows, asked[-1])
    asked.append(np.asarray(download.next_rows))
  assert len({tuple(rows) for rows in asked}) == 3


def test_all_of_the_public_set_travels_without_row_numbers(federation):
  simulation = publics.simulate("ds_fl", federation)
  size = publics.SIZE * tiny.CLASSES * 4
  assert simulation.bytes_up == simulation.bytes_down == size
  assert simulation.gradients == 5 + 5


@pytest.mark.slow
def test_clients_of_all_precisions_learn():
  publics.check_learns("ds_fl")


def test_the_server_may_have_a_network_of_its_own(federation):
  shared = publics.make_model((5,))
  made = publics.make_method("ds_fl", federation, shared=shared)
  server = made.init_server(jax.random.key(0), federation.example())
  assert made.global_model is not None
  params, _, model = made.global_model(server, COHORT)
  assert model is shared and params["first"]["kernel"].shape == (6, 5)


def test_it_needs_a_public_set_of_the_samples_of_a_round(federation):
  with pytest.raises(ValueError, match="public_size=0: .*'ds_fl'"):
    publics.make_method("ds_fl", None)
  with pytest.raises(ValueError, match="public_samples=31: must be at most"):
    publics.make_method("ds_fl", federation, public_samples=31)


@pytest.mark.parametrize("method", ["ds_fl", "cfd"])
@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("public_samples", -1, "public_samples=-1: must be at least 0"),
    ("digest_steps", -1, "digest_steps=-1: must be at least 0"),
    ("distill_steps", -1, "distill_steps=-1: must be at least 0"),
    ("distill_learning_rate", 0.0, "distill_learning_rate=0.0: must be pos"),
    ("distill_optimizer", "x", "distill_optimizer='x': must be one of sgd"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(method, option, value, message):
  with pytest.raises(ValueError, match=f"{method}.{message}"):
    qj.Settings(method_options={method: {option: value}})


def test_a_temperature_of_zero_is_an_error():
  with pytest.raises(
    ValueError, match="ds_fl.temperature=0.0: must be positive"
  ):
    qj.Settings(method_options={"ds_fl": {"temperature": 0}})
