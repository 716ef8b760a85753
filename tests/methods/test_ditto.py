import jax
import numpy as np
import pytest

import quped_jax as qj
from tests import alone, tiny

COHORT = tiny.COHORT
RATE = 0.1
# The shared copy takes the step size of FedAvg's clients.
SAME = {"bits": (32,), "shared_learning_rate": RATE}


@pytest.mark.slow
def test_without_penalty_it_is_local_training_beside_fedavg():
  made = tiny.tiny("ditto", options=(("lambda_p", 0.0),), **SAME)
  state = made.play(2)
  local = tiny.tiny("local", bits=(32,)).play(2).clients[COHORT]
  server = tiny.tiny("fedavg", bits=(32,)).play(2).server.model
  assert tiny.largest_difference(state.clients[COHORT], local) < 1e-6
  assert tiny.largest_difference(state.server, server) < 1e-6
  start = made.state()
  assert tiny.largest_difference(state.server, start.server) > 1e-2


@pytest.mark.slow
def test_a_quantized_client_without_penalty_is_that_of_local_training():
  own = alone.play(alone.make("ditto", bits=2, lambda_p=0.0))
  local = alone.play(alone.make("local", bits=2), download=())
  assert tiny.largest_difference(own.start, local.start) == 0
  own, local = own.result.client, local.result.client
  assert tiny.largest_difference(own, local) < 1e-6


@pytest.mark.slow
def test_the_global_model_does_not_depend_on_the_personal_ones():
  one, other = (
    tiny.tiny("ditto", options=(("lambda_p", value),), **SAME).play(2)
    for value in (0.0, 5.0)
  )
  assert tiny.largest_difference(one.server, other.server) < 1e-6
  personal = [state.clients[COHORT].params for state in (one, other)]
  assert tiny.largest_difference(*personal) > 1e-2


def hand_round(model, lambda_p, v, w, batches):
  received = w
  for batch in batches:

    def loss(params, batch=batch):
      return alone.labels_loss(alone.logits(model, params, batch), batch.labels)

    v = jax.tree.map(
      lambda v, g, w: v - RATE * (g + lambda_p * (v - w)),
      v,
      jax.grad(loss)(v),
      received,
    )
    w = alone.descend(w, jax.grad(loss)(w), alone.SHARED_RATE)
  return v, w


def test_local_steps_are_those_of_the_paper():
  made = alone.make("ditto", lambda_p=0.7)
  played = alone.play(made)
  v, w = jax.jit(lambda v, w, b: hand_round(made.models.shared, 0.7, v, w, b))(
    played.start.params, played.download.params, played.batches
  )
  assert tiny.largest_difference(played.result.client.params, v) < 1e-5
  assert tiny.largest_difference(alone.sent(played), w) < 1e-5
  assert tiny.largest_difference(v, played.start.params) > 1e-2
  assert tiny.largest_difference(w, played.download.params) > 1e-2


@pytest.mark.slow
def test_a_large_penalty_pulls_the_personal_model_to_the_received_one():
  distances = []
  for lambda_p in (0.0, 1.0, 9.0):
    made = alone.make("ditto", steps=10, lambda_p=lambda_p)
    played = alone.play(made)
    v, w = played.result.client.params, played.download.params
    distances.append(tiny.largest_difference(v, w))
  assert distances[0] > 1.2 * distances[1] > 5 * distances[2]


@pytest.mark.slow
def test_the_penalty_counts_once_for_a_quantized_client_too():
  ends = []
  for lambda_p in (0.0, 2.0):
    made = alone.make("ditto", bits=2, steps=1, lambda_p=lambda_p)
    played = alone.play(made)
    ends.append(played.result.client.params)
  # What is not quantized has no proximal map: the difference is the pull.
  for layer in ("first", "last"):
    v = played.start.params[layer]["kernel"]
    w = played.download.params[layer]["kernel"]
    pulled = ends[1][layer]["kernel"] - ends[0][layer]["kernel"]
    np.testing.assert_allclose(pulled, -RATE * 2.0 * (v - w), atol=1e-6)


def test_gradients_are_those_of_both_models():
  for bits, expected in ((2, 4 * (3 + 1)), (32, 4 * 2)):
    assert alone.make("ditto", bits=bits, steps=4).method.gradients == expected


@pytest.mark.slow
def test_clients_of_any_precision_learn():
  alone.check_learning("ditto")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"lambda_p": -0.1}, "ditto.lambda_p=-0.1: must be at least 0"),
    ({"weighting": "x"}, "ditto.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"ditto": options})


def test_all_clients_need_the_global_architecture():
  with pytest.raises(ValueError, match="ditto averages weights"):
    alone.make("ditto", own=alone.mlp(4))
