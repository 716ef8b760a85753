import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api
from quped_jax.methods.blocks.extended import OWN
from quped_jax.methods.feddbe import MEAN
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def features(params, inputs):
  layer = params["first"]
  return jnp.maximum(inputs @ layer["kernel"] + layer["bias"], 0)


def made_of(model, bits=(32,)):
  settings = tiny.make_settings("feddbe", 2, bits=bits)
  return tiny.make_method(settings, model, tiny.make_federation((9, 9)))


def test_the_shift_of_features_is_folded_into_the_bias():
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  made, federation = made_of(model), tiny.make_federation((9, 9))
  server, (client, _) = toy.begin(made, federation)
  shift = jnp.array([1.0, -2.0, 3.0, 0.5])
  own = {**client.own.params, OWN: shift}
  client = client._replace(own=client.own._replace(params=own))
  data = federation.client(jnp.int32(0))
  models = made.variants(server, client, data, toy.make_context(), COHORT)
  params, stats, network = models["personalized"]
  assert network is model and stats == models["global"][1] == {}
  tiny.assert_same_bits(models["global"][0]["last"], server.params["last"])
  inputs = data.batch(jnp.arange(9)).inputs
  head = server.params["last"]
  moved = features(server.params, inputs) + shift
  expected = moved @ head["kernel"] + head["bias"]
  logits, _ = model.apply(params, stats, inputs, False)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_first_round_is_fedavg_and_takes_the_mean_of_the_features():
  own = toy.play_one_client("feddbe")
  plain = toy.play_one_client("fedavg")
  message = own.result.message
  shared = {x: message.params[x] for x in ("first", "last")}
  expected = plain.result.message.params
  assert tiny.largest_difference(shared, expected) < 1e-6
  assert toy.norm(own.result.client.own.params[OWN]) == 0

  # mu = 1: that of the last batch, before its step.
  def loss(params, batch):
    return toy.hand_labels(toy.hand_forward(params, batch.inputs), batch.labels)

  start, _ = own.model.init(jax.random.key(0), np.ones((1, 6)))
  before = toy.descend(start, loss, own.batches[:-1])
  mean = jnp.mean(features(before, own.batches[-1].inputs), axis=0)
  np.testing.assert_allclose(message.stats[MEAN], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_later_rounds_are_those_of_the_objective():
  target = jnp.array([0.5, 0.1, 1.0, 0.2])
  kappa, mu = 3.0, 0.6

  def known(server):
    return server._replace(stats={**server.stats, MEAN: target})

  played = toy.play_one_client("feddbe", known, kappa=kappa, momentum=mu)
  start, _ = played.model.init(jax.random.key(0), np.ones((1, 6)))

  def loss(params, batch, before):
    shared, shift = params
    z = features(shared, batch.inputs)
    mean = (1 - mu) * before + mu * jnp.mean(z, axis=0)
    logits = (z + shift) @ shared["last"]["kernel"] + shared["last"]["bias"]
    apart = jnp.mean((mean - target) ** 2)
    return toy.hand_labels(logits, batch.labels) + kappa / 2 * apart, mean

  @jax.jit
  def step(params, batch, before):
    grads, mean = jax.grad(loss, has_aux=True)(params, batch, before)
    params = jax.tree.map(lambda p, g: p - toy.RATE * g, params, grads)
    return params, mean

  params, mean = (start, jnp.zeros(4)), jnp.zeros(4)
  for batch in played.batches:
    params, mean = step(params, batch, mean)
  message = played.result.message
  new = {x: jax.tree.map(jnp.add, start[x], message.params[x]) for x in start}
  assert tiny.largest_difference(new, params[0]) < 1e-5
  shift = played.result.client.own.params[OWN]
  assert tiny.largest_difference(shift, params[1]) < 1e-5
  assert toy.norm(shift) > 1e-3
  # The mean of all clients stays as it is.
  assert toy.norm(message.stats[MEAN]) == 0


def test_the_server_takes_the_mean_of_the_features_once():
  made = made_of(qj.create_model("mlp", tiny.CLASSES, features=(4,)))
  server, _ = toy.begin(made, tiny.make_federation((9, 9)))

  def hear(server, mean):
    download = made.broadcast(server, tiny.about(0), COHORT)
    moved = jax.tree.map(jnp.zeros_like, download)
    moved = moved._replace(stats={**moved.stats, MEAN: mean})
    heard = {COHORT: api.Aggregate(moved, jnp.float32(1))}
    return made.server_update(server, heard, toy.at_server())

  first = jnp.array([0.5, 0.0, 1.0, 0.0])
  server = hear(server, first)
  np.testing.assert_array_equal(server.stats[MEAN], first)
  # Noise, or a false message.
  server = hear(server, jnp.ones(4))
  np.testing.assert_array_equal(server.stats[MEAN], first)


def test_a_head_with_a_quantized_bias_is_an_error():
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  assert made_of(
    model._replace(is_quantized=lambda path: "kernel" in path), bits=(2,)
  )
  with pytest.raises(ValueError, match="must not quantize 'last/bias'"):
    made_of(model._replace(is_quantized=lambda path: True), bits=(2,))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("kappa", -1.0, "feddbe.kappa=-1.0: must be at least 0"),
    ("momentum", 0.0, "feddbe.momentum=0.0: must be positive"),
    ("momentum", 1.5, "feddbe.momentum=1.5: must be from 0 to 1"),
    ("weighting", "x", "feddbe.weighting='x': must be one of"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"feddbe": {option: value}})
