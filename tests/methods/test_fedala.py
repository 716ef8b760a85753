import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import random_keys
from quped_jax.methods import fedala
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def with_own(rounds, weights=1.0):
  """Prepares a client that has taken part before: v is w moved by 0.3."""

  def prepare(client):
    own = jax.tree.map(lambda x: x + 0.3, client.own)
    ones = jax.tree.map(lambda x: jnp.full_like(x, weights), client.weights)
    return client._replace(own=own, weights=ones, rounds=jnp.int32(rounds))

  return prepare


def test_the_mixture_is_between_the_two_and_exact_at_the_ends():
  shared, own = jnp.array([0.1, 1.0, 2.0]), jnp.array([0.7, 3.0, 7.0])
  mixed = fedala.mixture(shared, own, jnp.array([1.0, 0.5, 0.0]))
  np.testing.assert_array_equal(mixed, jnp.array([0.1, 2.0, 7.0]))


def test_a_client_begins_with_the_global_model():
  made = toy.linear_method("fedala", 1)
  with pytest.raises(ValueError, match=r"must have a layer 'last'.*layers=1"):
    toy.begin(made, toy.linear_federation())
  settings = tiny.make_settings("fedala", 1, bits=(32,))
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  made = tiny.make_method(settings, model)
  federation = tiny.make_federation((9,))
  server, (client,) = toy.begin(made, federation)
  data = federation.client(jnp.int32(0))
  context = toy.make_context()
  models = made.variants(server, client, data, context, COHORT)
  for params, _, _ in models.values():
    tiny.assert_same_bits(params, server.params)
  # A client's own v, of the last layer alone, enters by 1 - W.
  client = with_own(1, 0.25)(client)
  models = made.variants(server, client, data, context, COHORT)
  params = models["personalized"][0]
  tiny.assert_same_bits(params["first"], server.params["first"])
  moved = params["last"]["bias"] - server.params["last"]["bias"]
  np.testing.assert_allclose(moved, np.full(4, 0.75 * 0.3), rtol=1e-6)


@pytest.mark.slow
def test_without_a_step_size_it_is_fedavg():
  own = toy.play_one_client(
    "fedala", prepare_client=with_own(3), weight_learning_rate=0.0
  )
  plain = toy.play_one_client("fedavg")
  message = own.result.message
  assert tiny.largest_difference(message, plain.result.message) < 1e-6
  client = own.result.client
  assert int(client.rounds) == 4
  new = jax.tree.map(jnp.add, own.download.params, message.params)["last"]
  assert tiny.largest_difference(client.own["last"], new) < 1e-6


@pytest.mark.slow
def test_with_weights_of_zero_a_client_keeps_its_last_layer():
  """As in FedPer, whose client trains the same model."""

  def own_head(client):
    params = jax.tree.map(lambda x: x + 0.3, client.own.params)
    return client._replace(own=client.own._replace(params=params))

  played = toy.play_one_client(
    "fedala", prepare_client=with_own(3, 0.0), weight_learning_rate=0.0
  )
  own = played.result
  plain = toy.play_one_client("fedper", prepare_client=own_head).result
  apart = tiny.largest_difference(
    own.client.own["last"], plain.client.own.params["last"]
  )
  assert apart < 1e-6
  apart = tiny.largest_difference(
    own.message.params["first"], plain.message.params["first"]
  )
  assert apart < 1e-6
  # It sends how far it is from the global model, not from where it began.
  sent = jax.tree.map(jnp.add, played.download.params, own.message.params)
  assert tiny.largest_difference(sent["last"], own.client.own["last"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "steps"), [(0, 0), (1, 3), (2, 2)])
def test_weights_are_learned_by_steps_on_the_mixture(rounds, steps):
  options = {"weight_steps": 2, "start_steps": 3, "weight_learning_rate": 20.0}
  played = toy.play_one_client(
    "fedala", prepare_client=with_own(rounds), **options
  )
  w = played.download.params
  key = jax.random.fold_in(toy.make_context().key, random_keys.FEDALA_WEIGHTS)
  data = tiny.make_federation((23,)).client(jnp.int32(0))
  batches = [data.batch(p) for p in data.draw(key, 3, tiny.BATCH)][:steps]
  v = jax.tree.map(lambda x: x + 0.3, w["last"])
  weights = jax.tree.map(jnp.ones_like, v)

  @jax.jit
  def step(weights, batch):
    def loss(last):
      logits = toy.hand_forward({**w, "last": last}, batch.inputs)
      return toy.hand_labels(logits, batch.labels)

    mixed = jax.tree.map(
      lambda a, b, x: x * a + (1 - x) * b, w["last"], v, weights
    )
    return jax.tree.map(
      lambda x, g, a, b: jnp.clip(x - 20.0 * g * (a - b), 0, 1),
      weights, jax.grad(loss)(mixed), w["last"], v,
    )  # fmt: skip

  for batch in batches:
    weights = step(weights, batch)
  found = played.result.client.weights["last"]
  assert tiny.largest_difference(found, weights) < 1e-4
  assert (np.min(found["kernel"]) < 0.9) == (rounds > 0)


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("layers", 0, "fedala.layers=0: must be at least 1"),
    ("weight_steps", -1, "fedala.weight_steps=-1: must be at least 0"),
    ("start_steps", 0, "fedala.start_steps=0: must be at least 1"),
    ("weight_learning_rate", -1.0, "fedala.weight_learning_rate=-1.0: must"),
    ("weighting", "x", "fedala.weighting='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedala": {option: value}})
