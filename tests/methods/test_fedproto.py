import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods.blocks.prototypes import ClassMeans, Prototypes
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def made_of(**options):
  settings = tiny.make_settings(
    "fedproto", 2, bits=(32,), method_options={"fedproto": options}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(2,))
  return tiny.make_method(settings, model, tiny.make_federation((9, 9)))


def heard(made, server, *messages):
  """The server after a round in which these messages came."""
  sums = [
    made.receive(server, message, 1.0, None, COHORT) for message in messages
  ]
  total = jax.tree.map(lambda *x: sum(x), *sums)
  return made.server_update(server, {COHORT: total}, toy.at_server())


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_a_prototype_is_the_mean_of_those_who_have_the_class(weighting):
  made = made_of(weighting=weighting)
  server = made.init_server(jax.random.key(0), jnp.zeros((1, 6)))
  assert not server.known.any()
  first = ClassMeans(
    jnp.array([[1.0, 2.0], [0.0, 0.0], [5.0, 5.0], [0.0, 0.0]]),
    jnp.array([3.0, 0.0, 2.0, 0.0]),
  )
  second = ClassMeans(
    jnp.array([[5.0, 6.0], [7.0, 7.0], [0.0, 0.0], [0.0, 0.0]]),
    jnp.array([1.0, 4.0, 0.0, 0.0]),
  )
  server = heard(made, server, first, second)
  share = 0.75 if weighting == "samples" else 0.5
  mean = share * np.array([1.0, 2.0]) + (1 - share) * np.array([5.0, 6.0])
  expected = [mean, [7.0, 7.0], [5.0, 5.0], [0.0, 0.0]]
  np.testing.assert_allclose(server.means, expected, rtol=1e-6)
  np.testing.assert_array_equal(server.known, [True, True, True, False])
  # Classes that nobody sends keep what they had.
  server = heard(made, server, second)
  np.testing.assert_allclose(server.means[0], [5.0, 6.0], rtol=1e-6)
  np.testing.assert_array_equal(server.means[2], [5.0, 5.0])
  np.testing.assert_array_equal(server.known, [True, True, True, False])


def some(server):
  del server
  means = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), "float32")
  return Prototypes(means, jnp.array([True, True, False, True]))


@pytest.mark.slow
def test_local_steps_are_drawn_to_the_known_prototypes():
  played = toy.play_one_client("fedproto", some, weight=2.0)
  known = some(None)
  start, _ = played.model.init(jax.random.key(0), np.ones((1, 6)))

  def features(params, inputs):
    layer = params["first"]
    return jnp.maximum(inputs @ layer["kernel"] + layer["bias"], 0)

  def loss(params, batch):
    z = features(params, batch.inputs)
    apart = jnp.mean((z - known.means[batch.labels]) ** 2, axis=1)
    apart = jnp.mean(jnp.where(known.known[batch.labels], apart, 0))
    logits = toy.hand_forward(params, batch.inputs)
    return toy.hand_labels(logits, batch.labels) + 2 * apart

  new = toy.descend(start, loss, played.batches)
  assert tiny.largest_difference(played.result.client.params, new) < 1e-5
  # It sends the means of its model after the steps.
  batch = tiny.make_federation((23,)).client(jnp.int32(0)).batch(jnp.arange(23))
  z, message = features(new, batch.inputs), played.result.message
  for label in range(tiny.CLASSES):
    own = z[batch.labels == label]
    assert message.counts[label] == len(own) > 0
    np.testing.assert_allclose(message.means[label], own.mean(0), atol=1e-4)


@pytest.mark.slow
def test_without_weight_or_prototypes_it_is_local_training():
  plain = toy.play_one_client("local").result.client.params
  for own in (
    toy.play_one_client("fedproto", some, weight=0.0),
    toy.play_one_client("fedproto"),
  ):
    assert tiny.largest_difference(own.result.client.params, plain) < 1e-6


@pytest.mark.slow
def test_the_nearest_prototype_is_one_more_model():
  played = toy.play_one_client("fedproto")
  made, client = played.made, played.result.client
  data = tiny.make_federation((23,)).client(jnp.int32(0))

  def models(server):
    context = toy.make_context()
    return made.variants(server, client, data, context, COHORT)

  nothing = Prototypes(jnp.zeros((4, 4)), jnp.zeros(4, bool))
  found = models(nothing)
  tiny.assert_same_bits(found["prototypes"][0], client.params)
  known = some(None)
  params, stats, network = models(known)["prototypes"]
  assert network is played.model
  inputs = data.batch(jnp.arange(23)).inputs
  layer = client.params["first"]
  z = np.maximum(inputs @ layer["kernel"] + layer["bias"], 0)
  apart = np.sum((z[:, None] - known.means[None]) ** 2, axis=-1)
  apart = np.where(known.known, apart, np.inf)
  logits, _ = network.apply(params, stats, inputs, False)
  np.testing.assert_array_equal(np.argmax(logits, 1), np.argmin(apart, 1))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("weight", -1.0, "fedproto.weight=-1.0: must be at least 0"),
    ("weighting", "x", "fedproto.weighting='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedproto": {option: value}})
