import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import moon
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT
MU, TEMPERATURE = 2.0, 0.4


def hand_features(params, inputs):
  x = inputs @ params["first"]["kernel"] + params["first"]["bias"]
  return jnp.maximum(x, 0)


def hand_term(z, like, unlike):
  """As the paper writes it."""

  def cos(a, b):
    lengths = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / lengths

  near = jnp.exp(cos(z, like) / TEMPERATURE)
  far = jnp.exp(cos(z, unlike) / TEMPERATURE)
  return jnp.mean(-jnp.log(near / (near + far)))


def with_features(params):
  """The same with biases by which no sample's features are all zero."""
  return {**params, "first": {**params["first"], "bias": jnp.full(4, 3.0)}}


def other(params):
  """Those of another model."""
  return jax.tree.map(lambda x: x[::-1], with_features(params))


@pytest.mark.slow
def test_local_steps_are_those_of_the_paper():
  played = toy.play_one_client(
    "moon",
    lambda server: server._replace(params=with_features(server.params)),
    lambda client: client._replace(
      last=client.last._replace(params=other(client.last.params)),
      trained=jnp.bool_(True),
    ),
    mu=MU,
    temperature=TEMPERATURE,
  )
  start = played.download.params
  last = other(start)

  def loss(params, batch):
    like, unlike = (hand_features(p, batch.inputs) for p in (start, last))
    term = hand_term(hand_features(params, batch.inputs), like, unlike)
    logits = toy.hand_forward(params, batch.inputs)
    return toy.hand_labels(logits, batch.labels) + MU * term

  params = toy.descend(start, loss, played.batches)
  sent = jax.tree.map(jnp.add, start, played.result.message.params)
  assert tiny.largest_difference(sent, params) < 1e-5
  # It is these that the client will know as its last local model.
  client = played.result.client
  assert tiny.largest_difference(client.last.params, sent) < 1e-6
  assert bool(client.trained)

  def labels(params, batch):
    logits = toy.hand_forward(params, batch.inputs)
    return toy.hand_labels(logits, batch.labels)

  plain = toy.descend(start, labels, played.batches)
  assert tiny.largest_difference(sent, plain) > 1e-3


def test_a_first_time_is_as_in_fedavg():
  """Whatever the client holds in place of its last model."""

  def forget(client):
    last = jax.tree.map(lambda x: x + 7, client.last)
    return client._replace(last=last)

  own = toy.play_one_client("moon", prepare_client=forget, mu=MU)
  plain = toy.play_one_client("fedavg")
  message, other = own.result.message, plain.result.message
  assert tiny.largest_difference(message, other) < 1e-6
  added = own.result.metrics["loss"] - plain.result.metrics["loss"]
  np.testing.assert_allclose(added, MU * np.log(2), rtol=1e-4)


def test_the_term_says_which_of_two_models_features_are_like():
  rng = np.random.default_rng(0)
  z, like, unlike = rng.normal(size=(3, 5, 4)).astype(np.float32)
  term = functools.partial(moon.contrast, temperature=TEMPERATURE)
  np.testing.assert_allclose(
    term(z, like, unlike), hand_term(z, like, unlike), rtol=1e-5
  )
  # Lengths do not matter, and no temperature is too small.
  np.testing.assert_allclose(
    term(100 * z, like, 0.01 * unlike), term(z, like, unlike), rtol=1e-5
  )
  for sign, expected in ((1, 0.0), (-1, 2e4)):
    apart = moon.contrast(z, sign * z, -sign * z, 1e-4)
    np.testing.assert_allclose(apart, expected, atol=1e-3, rtol=1e-5)


def test_features_that_are_zero_have_no_direction():
  zero, one = jnp.zeros((2, 3)), jnp.ones((2, 3))
  for z, like in ((zero, one), (one, zero), (zero, zero)):
    value, grads = jax.value_and_grad(moon.contrast)(z, like, one, 0.5)
    assert np.isfinite(value) and np.all(np.isfinite(grads))
  assert moon.contrast(zero, one, -one, 0.5) == pytest.approx(np.log(2))


@pytest.mark.slow
def test_rounds_differ_from_fedavg_by_the_term_alone():
  """And the first one does not."""
  how: Any = {"clients": 2, "bits": (32,)}
  off, plain = toy.run("moon", 2, mu=0.0, **how), toy.run("fedavg", 2, **how)
  end, other = off.states[-1], plain.states[-1]
  assert tiny.largest_difference(end.server, other.server.model) < 1e-6
  own = toy.run("moon", 2, mu=MU, **how)
  first = own.states[1].server
  assert tiny.largest_difference(first, plain.states[1].server.model) < 1e-6
  assert tiny.largest_difference(own.states[2].server, end.server) > 1e-3
  simulation, base = own.made.simulation, plain.made.simulation
  assert simulation.bytes_down == base.bytes_down
  assert simulation.bytes_up == base.bytes_up


def test_a_network_without_features_is_an_error():
  settings = tiny.make_settings("moon", 1)
  with pytest.raises(ValueError, match="model='linear': must have `features`"):
    tiny.make_method(settings, toy.LINEAR, tiny.make_federation((23,)))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("mu", -0.1, "moon.mu=-0.1: must be at least 0"),
    ("temperature", 0.0, "moon.temperature=0.0: must be positive"),
    ("weighting", "x", "moon.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"moon": {option: value}})
