import jax
import jax.numpy as jnp
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

KNOWN = jnp.array([1.0, 0.6, 0.0, 0.2])


def test_local_steps_weigh_each_class_by_its_credibility():
  played = toy.play_one_client(
    "fedcad",
    lambda server: server._replace(credibility=KNOWN),
    strength=2.0,
  )
  start = played.download.model.params

  def loss(params, batch):
    taught, logits = (
      toy.hand_forward(p, batch.inputs) for p in (start, params)
    )
    apart = jnp.sum((2.0 * KNOWN[None] * (taught - logits)) ** 2, axis=1)
    return toy.hand_labels(logits, batch.labels) + jnp.mean(apart)

  params = toy.descend(start, loss, played.batches)
  sent = jax.tree.map(jnp.add, start, played.result.message.params)
  assert tiny.largest_difference(sent, params) < 1e-5
  plain = toy.play_one_client("fedavg").result.message
  assert tiny.largest_difference(played.result.message, plain) > 1e-3


@pytest.mark.slow
def test_without_strength_it_is_fedavg():
  own, plain = toy.run("fedcad", 2, strength=0.0), toy.run("fedavg", 2)
  end, other = own.states[-1], plain.states[-1]
  assert tiny.largest_difference(end.server.model, other.server.model) < 1e-6
  assert tiny.largest_difference(end.clients, other.clients) < 1e-6
  assert end.server.credibility.max() > 0.1


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("strength", -0.1, "fedcad.strength=-0.1: must be at least 0"),
    ("weighting", "x", "fedcad.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedcad": {option: value}})
