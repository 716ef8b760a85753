import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


@pytest.mark.slow
def test_the_head_stays_as_it_was_drawn_whatever_the_optimizer_does():
  decay = (("optimizer", "momentum"), ("weight_decay", 0.1))
  played = toy.run("fedbabu", 2, changes=decay)
  before, after = played.states[0].server, played.states[-1].server
  tiny.assert_same_bits(before.params["last"], after.params["last"])
  own = played.states[-1].clients[COHORT].own.params["last"]
  for index in range(3):
    tiny.assert_same_bits(tiny.client(own, index), before.params["last"])
  for layer in ("first", "hidden_1"):
    moved = tiny.largest_difference(before.params[layer], after.params[layer])
    assert moved > 1e-2
  # 6 -> 8 -> 8, with biases: the head does not travel.
  size = 4 * ((6 * 8 + 8) + (8 * 8 + 8))
  simulation = played.made.simulation
  assert simulation.bytes_down == simulation.bytes_up == size


@pytest.mark.slow
def test_local_steps_train_the_body_under_the_head():
  played = toy.play_one_client("fedbabu")
  start, _ = played.model.init(jax.random.key(0), np.ones((1, 6)))

  def loss(body, batch):
    params = {"first": body, "last": start["last"]}
    return toy.hand_labels(toy.hand_forward(params, batch.inputs), batch.labels)

  body = toy.descend(start["first"], loss, played.batches)
  sent = played.result.message.params["first"]
  new = jax.tree.map(jnp.add, start["first"], sent)
  assert tiny.largest_difference(new, body) < 1e-5


def test_without_adaptation_both_models_are_the_body_under_that_head():
  settings = tiny.make_settings(
    "fedbabu", 1, bits=(32,), method_options={"fedbabu": {"adapt_steps": 0}}
  )
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  made = tiny.make_method(settings, model)
  federation = tiny.make_federation((9,))
  server, (client,) = toy.begin(made, federation)
  server = jax.tree.map(lambda x: x + 1, server)
  models = made.variants(
    server, client, federation.client(jnp.int32(0)), toy.make_context(), COHORT
  )
  assert made.primary_variant == "personalized"
  assert set(models) == {"personalized", "global"}
  for params, _, network in models.values():
    tiny.assert_same_bits(params, server.params)
    assert network is model


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("weighting", "x", "fedbabu.weighting='x': must be one of"),
    ("adapt_steps", -2, "fedbabu.adapt_steps=-2: must be at least -1"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedbabu": {option: value}})


def test_a_model_must_have_head_and_body():
  made = toy.linear_method("fedbabu", 2)
  with pytest.raises(ValueError, match="must have a layer 'last'.*'fedbabu'"):
    toy.begin(made, toy.linear_federation())
