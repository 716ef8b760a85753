import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import apfl
from tests import alone, tiny

COHORT = tiny.COHORT
RATE = 0.1
SAME = {"bits": (32,), "shared_learning_rate": RATE}


def play_fixed(alpha, rounds=2):
  """Rounds of a federation with that fixed alpha."""
  options = {"alpha": alpha, "alpha_learning_rate": 0.0}
  made = tiny.assemble(
    tiny.make_settings(
      "apfl", len(tiny.COUNTS), method_options={"apfl": options}, **SAME
    )
  )
  state = made.simulation.init(0)
  start = tiny.to_host(state)
  for _ in range(rounds):
    state, _ = made.simulation.run_round(state)
  np.testing.assert_array_equal(state.clients[COHORT].alpha, alpha)
  return made, start, state


def variants_of(made, state, client_id):
  client = tiny.client(state.clients[COHORT], client_id)
  return made.method.variants(state.server, client, None, None, COHORT)


def fedavg():
  return tiny.tiny("fedavg", bits=(32,)).play(2).server.model


@pytest.mark.slow
def test_a_weight_of_one_is_local_training():
  made, _, state = play_fixed(1.0)
  local = tiny.tiny("local", bits=(32,)).play(2).clients[COHORT]
  assert tiny.largest_difference(state.clients[COHORT].learner, local) < 1e-6
  own, _, _ = variants_of(made, state, 3)["personalized"]
  assert tiny.largest_difference(own, tiny.client(local.params, 3)) < 1e-6
  # The global model is trained beside it.
  assert tiny.largest_difference(state.server, fedavg()) < 1e-6


@pytest.mark.slow
def test_a_weight_of_zero_is_fedavg():
  made, start, state = play_fixed(0.0)
  assert tiny.largest_difference(state.server, fedavg()) < 1e-6
  variants = variants_of(made, state, 3)
  personalized, common = variants["personalized"], variants["global"]
  assert tiny.largest_difference(personalized[0], common[0]) == 0
  kept = start.clients[COHORT].learner.params
  assert (
    tiny.largest_difference(state.clients[COHORT].learner.params, kept) == 0
  )


def hand_step(model, client, w, batch, rate_alpha):
  def loss(params):
    return alone.labels_loss(alone.logits(model, params, batch), batch.labels)

  v, alpha = client
  mixture = jax.tree.map(lambda v, w: alpha * v + (1 - alpha) * w, v, w)
  grads = jax.grad(loss)(mixture)
  slopes = jax.tree.map(lambda g, v, w: jnp.sum(g * (v - w)), grads, v, w)
  new_alpha = alpha - rate_alpha * sum(jax.tree.leaves(slopes))
  new_v = jax.tree.map(lambda v, g: v - RATE * alpha * g, v, grads)
  new_w = alone.descend(w, jax.grad(loss)(w), alone.SHARED_RATE)
  return (new_v, jnp.clip(new_alpha, 0, 1)), new_w


def test_local_steps_are_those_of_the_paper():
  rate_alpha = 0.07
  made = alone.make("apfl", alpha=0.3, alpha_learning_rate=rate_alpha)
  played = alone.play(made)

  def by_hand(v, w):
    client = (v, jnp.float32(0.3))
    for batch in played.batches:
      client, w = hand_step(made.models.shared, client, w, batch, rate_alpha)
    return client, w

  (v, alpha), w = jax.jit(by_hand)(
    played.start.learner.params, played.download.params
  )
  new = played.result.client
  assert tiny.largest_difference(new.learner.params, v) < 1e-5
  assert tiny.largest_difference(alone.sent(played), w) < 1e-5
  np.testing.assert_allclose(new.alpha, alpha, rtol=1e-4)
  assert abs(new.alpha - 0.3) > 1e-2
  assert tiny.largest_difference(v, played.start.learner.params) > 1e-3


def hand_loss(params, batch):
  """In double precision."""
  x = np.asarray(batch.inputs, np.float64)
  for name in ("first", "hidden_1", "last"):
    layer = params[name]
    x = x @ layer["kernel"] + layer["bias"]
    x = x if name == "last" else np.maximum(x, 0)
  chosen = x[np.arange(len(x)), batch.labels]
  return np.mean(np.log(np.sum(np.exp(x), axis=1)) - chosen)


@pytest.mark.slow
def test_the_gradient_of_alpha_agrees_with_finite_differences():
  rate = 0.01
  made = alone.make("apfl", steps=1, alpha=0.4, alpha_learning_rate=rate)
  played = alone.play(made)
  double = jax.tree.map(
    lambda x: np.asarray(x, np.float64),
    (played.start.learner.params, played.download.params),
  )

  def loss(alpha):
    return hand_loss(apfl.mix(alpha, *double), played.batches[0])

  expected = (loss(0.4 + 1e-5) - loss(0.4 - 1e-5)) / 2e-5
  slope = (0.4 - played.result.client.alpha) / rate
  assert abs(expected) > 0.1
  np.testing.assert_allclose(slope, expected, rtol=1e-3)


def test_the_weight_stays_a_weight():
  made = alone.make("apfl", alpha_learning_rate=1e4)
  assert alone.play(made).result.client.alpha in (0.0, 1.0)


def test_the_mixture_is_of_the_servers_current_model():
  made = alone.make("apfl", alpha=0.25)
  client = alone.start(made)
  server = made.init(jax.random.key(3))[0]
  variants = made.method.variants(
    server, client, made.data, made.context, COHORT
  )
  assert set(variants) == {"personalized", "global"}
  kernels = [
    tree["first"]["kernel"]
    for tree in (
      variants["personalized"][0],
      client.learner.params,
      server.params,
    )
  ]
  np.testing.assert_allclose(
    kernels[0], 0.25 * kernels[1] + 0.75 * kernels[2], rtol=1e-5
  )
  assert made.method.primary_variant == "personalized"


def test_gradients_are_those_of_the_mixture_and_of_the_copy():
  assert alone.make("apfl", steps=4).method.gradients == 2 * 4


def test_quantized_clients_are_refused():
  with pytest.raises(ValueError, match="bits: must be 32 .*method='apfl'"):
    alone.make("apfl", bits=2)


@pytest.mark.slow
def test_clients_learn():
  alone.check_learning("apfl", bits=(32,))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"alpha": 1.5}, "apfl.alpha=1.5: must be from 0 to 1"),
    (
      {"alpha_learning_rate": -1.0},
      "apfl.alpha_learning_rate=-1.0: must be at least 0",
    ),
    ({"weighting": "x"}, "apfl.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"apfl": options})


def test_all_clients_need_the_global_architecture():
  with pytest.raises(ValueError, match="apfl averages weights"):
    alone.make("apfl", own=alone.mlp(4))
