import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import fedssd
from tests import tiny
from tests.methods import toy

KNOWN = jnp.array([1.0, 0.6, 0.0, 0.3])


def by_hand(taught, labels, strength):
  """W, as implementations write it."""
  p = toy.hand_softmax(taught)[jnp.arange(len(labels)), labels]
  sample = 1 - jnp.sqrt(1 - p)
  return strength * jnp.maximum(KNOWN[None] * sample[:, None] - 0.1, 0)


def sure(server):
  """A server whose model is surer of some labels than of others."""
  params = server.model.params
  last = {**params["last"], "bias": jnp.array([0.0, 1.0, 3.0, 2.0])}
  model = server.model._replace(params={**params, "last": last})
  return server._replace(model=model, credibility=KNOWN)


@pytest.mark.slow
def test_local_steps_weigh_classes_and_samples():
  played = toy.play_one_client(
    "fedssd",
    sure,
    strength=2.0,
  )
  start = played.download.model.params
  batch = played.batches[0]
  weights = by_hand(toy.hand_forward(start, batch.inputs), batch.labels, 2.0)
  # Some samples teach more classes than others, and some none.
  assert len(np.unique(np.sum(np.asarray(weights) > 0, axis=1))) > 2

  def loss(params, batch):
    taught, logits = (
      toy.hand_forward(p, batch.inputs) for p in (start, params)
    )
    weights = by_hand(taught, batch.labels, 2.0)
    apart = jnp.sum((weights * (taught - logits)) ** 2, axis=1)
    return toy.hand_labels(logits, batch.labels) + jnp.mean(apart)

  params = toy.descend(start, loss, played.batches)
  sent = jax.tree.map(jnp.add, start, played.result.message.params)
  assert tiny.largest_difference(sent, params) < 1e-5

  def labels(params, batch):
    logits = toy.hand_forward(params, batch.inputs)
    return toy.hand_labels(logits, batch.labels)

  plain = toy.descend(start, labels, played.batches)
  assert tiny.largest_difference(sent, plain) > 1e-3


def test_a_perfect_teacher_has_nine_tenths_of_the_strength():
  labels = jnp.arange(8) % 4
  taught = 1e3 * jax.nn.one_hot(labels, 4)
  found = fedssd.weights(jnp.ones(4), taught, labels)
  np.testing.assert_allclose(found, np.full((8, 4), 0.9), rtol=1e-6)


def test_a_teacher_at_chance_has_none():
  """One that guesses among four classes and takes no other for any."""
  labels = jnp.arange(8) % 4
  found = fedssd.weights(jnp.full(4, 0.7), jnp.zeros((8, 4)), labels)
  np.testing.assert_array_equal(found, np.zeros((8, 4)))


def test_nothing_is_taught_from_samples_that_the_teacher_gets_wrong():
  labels = jnp.array([0, 1])
  taught = 10 * jax.nn.one_hot(jnp.array([0, 2]), 4)
  found = fedssd.weights(jnp.ones(4), taught, labels)
  assert np.all(found[0] > 0.8) and np.all(found[1] == 0)


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("strength", -0.1, "fedssd.strength=-0.1: must be at least 0"),
    ("weighting", "x", "fedssd.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedssd": {option: value}})
