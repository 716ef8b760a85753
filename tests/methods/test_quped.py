import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.methods import api
from quped_jax.methods.blocks import messages
from tests import tiny
from tests.methods import toy

COHORT = tiny.COHORT
STEPS, LEVELS = 2, 4
# T, P (in gaps), and the rates and strength of the tests.
TEMPERATURE, SHARPNESS = 2.0, 10.0
LEARNING_RATE, CENTERS_RATE, SHARED_RATE, STRENGTH = 0.1, 0.02, 0.3, 0.05


def hand_forward(params, inputs):
  x = inputs
  for name in ("first", "hidden_1", "last"):
    x = x @ params[name]["kernel"] + params[name]["bias"]
    x = x if name == "last" else jnp.maximum(x, 0)
  return x


def hand_kl(first, second):
  """T^2 * mean over the batch of KL(softmax(first/T) || softmax(second/T))."""
  p = jnp.exp(first / TEMPERATURE)
  p /= p.sum(axis=1, keepdims=True)
  q = jnp.exp(second / TEMPERATURE)
  q /= q.sum(axis=1, keepdims=True)
  return TEMPERATURE**2 * jnp.mean(jnp.sum(p * jnp.log(p / q), axis=1))


def hand_labels(logits, labels):
  p = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
  return -jnp.mean(jnp.log(p[jnp.arange(len(labels)), labels]))


def hand_soft(x, c):
  slope = SHARPNESS / jax.lax.stop_gradient((c[-1] - c[0]) / (len(c) - 1))
  soft = c[0]
  for low, high in zip(c[:-1], c[1:], strict=True):
    soft += (high - low) / (1 + jnp.exp(-slope * (x - (high + low) / 2)))
  return soft


def with_hidden(params, kernel):
  hidden = {**params["hidden_1"], "kernel": kernel}
  return {**params, "hidden_1": hidden}


def hand_nearest(x, c):
  return jnp.argmin(jnp.abs(x[..., None] - c), axis=-1)


def prox_l2(y, c, t):
  """The weights' proximal map with squared distances."""
  kernel = y["hidden_1"]["kernel"]
  q = c[hand_nearest(kernel, c)]
  return with_hidden(y, (kernel + 2 * t * q) / (1 + 2 * t))


def prox_centers_l2(mu, old, x, t):
  """The levels' proximal map, with assignments to the old levels fixed."""
  index = hand_nearest(x, old)
  sums = jnp.stack([jnp.sum(jnp.where(index == k, x, 0)) for k in range(4)])
  counts = jnp.stack([jnp.sum(index == k) for k in range(4)])
  return jnp.sort((mu + 2 * t * sums) / (1 + 2 * t * counts))


def descend(tree, grads, rate):
  return jax.tree.map(lambda p, g: p - rate * g, tree, grads)


def hand_step(x, c, w, batch, share, global_loss):
  """One local step of Algorithm 2: a (weights), b (levels), c (w_i)."""
  inputs, labels = batch[:2]
  teacher = hand_forward(w, inputs)

  def quantized(x, c):
    return with_hidden(x, hand_soft(x["hidden_1"]["kernel"], c))

  def own_loss(params):
    logits = hand_forward(params, inputs)
    distilled = hand_kl(teacher, logits)
    return (1 - share) * hand_labels(logits, labels) + share * distilled

  y = descend(
    x,
    jax.grad(lambda x: own_loss(x) + own_loss(quantized(x, c)))(x),
    LEARNING_RATE,
  )
  x = prox_l2(y, c, LEARNING_RATE * STRENGTH)
  mu = c - CENTERS_RATE * jax.grad(lambda c: own_loss(quantized(x, c)))(c)
  kernel = x["hidden_1"]["kernel"]
  c = prox_centers_l2(mu, c, kernel, CENTERS_RATE * STRENGTH)

  def global_objective(w):
    logits = hand_forward(w, inputs)
    own = [hand_forward(params, inputs) for params in (x, quantized(x, c))]
    total = share * sum(hand_kl(logits, target) for target in own)
    if global_loss == "distill+labels":
      total += hand_labels(logits, labels)
    return total

  return x, c, descend(w, jax.grad(global_objective)(w), SHARED_RATE)


def hand_quped(x, c, w, batches, share, global_loss):
  for batch in batches:
    x, c, w = hand_step(x, c, w, batch, share, global_loss)
  return x, c, w


def one_client(method, **options):
  settings = tiny.make_settings(
    method,
    1,
    steps=STEPS,
    bits=(2,),
    norm="l2",
    sharpness=SHARPNESS,
    method_options={method: options},
  )
  federation = tiny.make_federation((23,))
  model = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
  return settings, federation, tiny.make_method(settings, model)


def play_one_client(settings, federation, made):
  """One client's round: (its start, what it downloads, result, batches)."""
  context = api.Context(
    round=jnp.int32(0),
    key=jax.random.key(5),
    client_id=jnp.int32(0),
    spec=api.ClientSpec(jnp.int32(2)),
    rates=qj.Rates(*map(jnp.float32, (LEARNING_RATE, CENTERS_RATE, STRENGTH))),
    shared_learning_rate=jnp.float32(SHARED_RATE),
  )
  data = federation.client(jnp.int32(0))

  @jax.jit
  def play():
    example = federation.example()
    start = made.init_client(
      jax.random.key(1),
      example,
      made.init_server(jax.random.key(1), example),
      context.client_id,
      context.spec,
      COHORT,
    )
    # A global model unlike the client's.
    server = made.init_server(jax.random.key(2), example)
    download = made.broadcast(server, context, COHORT)
    result = made.client_update(download, start, data, context, COHORT)
    return start, download, result

  draw_key, _ = jax.random.split(context.key)
  positions = data.draw(draw_key, settings.steps, settings.batch_size)
  return *play(), [data.batch(p) for p in positions]


@pytest.mark.parametrize(
  "global_loss",
  [pytest.param("distill", marks=pytest.mark.slow), "distill+labels"],
)
def test_local_steps_are_those_of_the_paper(global_loss):
  start, download, result, batches = play_one_client(
    *one_client(
      "quped", lambda_p=0.4, temperature=TEMPERATURE, global_loss=global_loss
    )
  )
  old = start.codebooks["hidden_1"]["kernel"].centers
  chex.assert_shape(old, (LEVELS,))
  x, c, w = jax.jit(
    lambda x, c, w, b: hand_quped(x, c, w, b, 0.4, global_loss)
  )(start.params, old, download.params, batches)
  new = result.client
  centers = new.codebooks["hidden_1"]["kernel"].centers
  sent = jax.tree.map(jnp.add, download.params, result.message.params)
  assert tiny.largest_difference(new.params, x) < 1e-5
  assert tiny.largest_difference(centers, c) < 1e-5
  assert tiny.largest_difference(sent, w) < 1e-5
  # All three moved, by more than the tolerance.
  assert tiny.largest_difference(new.params, start.params) > 1e-2
  assert tiny.largest_difference(centers, old) > 1e-3
  assert tiny.largest_difference(sent, download.params) > 1e-2


@pytest.mark.parametrize("blend", [0.25, 1.0])
def test_a_round_begins_where_blend_says(blend):
  start, download, result, batches = play_one_client(
    *one_client("quped", temperature=TEMPERATURE, blend=blend)
  )
  begun = jax.tree.map(
    lambda x, w: (1 - blend) * x + blend * w, start.params, download.params
  )
  old = start.codebooks["hidden_1"]["kernel"].centers
  x, c, _ = jax.jit(lambda x, c, w, b: hand_quped(x, c, w, b, 0.5, "distill"))(
    begun, old, download.params, batches
  )
  new = result.client
  centers = new.codebooks["hidden_1"]["kernel"].centers
  assert tiny.largest_difference(new.params, x) < 1e-5
  assert tiny.largest_difference(centers, c) < 1e-5


@pytest.fixture(scope="module")
def undistilled():
  """QuPeD with lambda_p = 0."""
  return tiny.tiny("quped", bits=tiny.FEW, options=(("lambda_p", 0.0),))


def test_without_distillation_it_is_local_quantized_training(undistilled):
  own = undistilled.play(1)
  local = tiny.tiny("local").play(1)
  mine, theirs = own.clients[COHORT], local.clients[COHORT]
  assert tiny.largest_difference(mine, theirs) < 1e-6
  start = undistilled.state()
  assert tiny.largest_difference(own.server, start.server) == 0


@pytest.mark.slow
def test_without_distillation_and_levels_it_is_local_training(undistilled):
  start = tiny.full_precision(undistilled.state())
  own = undistilled.play(1, state=start)
  static = tiny.tiny("local", bits=(32,))
  local = static.play(1)
  params = local.clients[COHORT].params
  assert tiny.largest_difference(own.clients[COHORT].params, params) < 1e-6
  start = static.state().clients[COHORT].params
  assert tiny.largest_difference(start, params) > 1e-2


@pytest.mark.slow
def test_a_federation_of_full_precision_is_that_of_32_bit_clients():
  mixed = tiny.tiny("quped")
  own = mixed.play(1, state=tiny.full_precision(mixed.state()))
  static = tiny.tiny("quped", bits=(32,)).play(1)
  params = static.clients[COHORT].params
  assert tiny.largest_difference(own.clients[COHORT].params, params) < 1e-5
  assert tiny.largest_difference(own.server, static.server) < 1e-5


def test_the_server_takes_the_mean_by_the_weighting():
  model = qj.create_model("mlp", 3, features=(4,))
  shared = api.GlobalModel({"w": jnp.array([1.0])}, {})
  for weighting, expected in (("uniform", 3.0), ("samples", 2.5)):
    settings = tiny.make_settings(
      "quped", 2, method_options={"quped": {"weighting": weighting}}
    )
    made = tiny.make_method(settings, model)
    federation = tiny.make_federation((9, 3))
    weights = [
      messages.client_weight(weighting, federation.client(jnp.int32(i)))
      for i in range(2)
    ]
    sent = [api.GlobalModel({"w": jnp.array([v])}, {}) for v in (1.0, 3.0)]
    sums = [
      made.receive(shared, m, w, None, COHORT)
      for m, w in zip(sent, weights, strict=True)
    ]
    total = jax.tree.map(jnp.add, *sums)
    server = made.server_update(shared, {COHORT: total}, toy.at_server())
    np.testing.assert_allclose(server.params["w"], [expected])


@pytest.mark.slow
def test_optimizer_states_of_a_client_stay_with_it():
  settings = dataclasses.replace(
    tiny.make_settings("quped", 1, bits=(2,)), optimizer="momentum"
  )
  federation = tiny.make_federation((23,))
  model = qj.create_model("mlp", tiny.CLASSES, features=(8, 8))
  made = tiny.make_method(settings, model)
  start, _, result, _ = play_one_client(settings, federation, made)
  kept = [
    np.abs(x).max()
    for x in jax.tree.leaves(result.client.opt_state)
    if x.dtype == jnp.float32
  ]
  assert jax.tree.structure(start) == jax.tree.structure(result.client)
  assert kept and min(kept) > 0


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("lambda_p", 1.5, "quped.lambda_p=1.5: must be from 0 to 1"),
    ("lambda_p", float("nan"), "quped.lambda_p=nan: must be from 0 to 1"),
    ("temperature", 0.0, "quped.temperature=0.0: must be positive"),
    ("temperature_on", "x", "quped.temperature_on='x': must be one of both"),
    ("global_loss", "x", "quped.global_loss='x': must be one of distill"),
    ("weighting", "x", "quped.weighting='x': must be one of uniform, samples"),
    ("blend", 1.5, "quped.blend=1.5: must be from 0 to 1"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"quped": {option: value}})


def test_nobody_blends_with_a_model_of_another_network():
  settings = tiny.make_settings(
    "quped", 2, method_options={"quped": {"blend": 0.5}}
  )
  own, shared = (
    qj.create_model("mlp", tiny.CLASSES, features=(width, 8))
    for width in (8, 4)
  )
  build = methods.get_method("quped").build
  with pytest.raises(ValueError, match="quped.blend: must be 0 where no"):
    build(
      api.Models(shared=shared, clients={COHORT: own}),
      tiny.make_training(settings),
      settings.options(),
      None,
    )


@pytest.mark.slow
def test_clients_of_the_global_network_alone_blend():
  found = qj.run(
    qj.Settings(
      clients=4,
      client_types="2*mlp(8,8)@2, 2*mlp(4,4)@2",
      shared_model="mlp",
      shared_hidden=(8, 8),
      rounds=2,
      steps=2,
      quped={"blend": 1.0},
    )
  )
  assert found.summary["accuracy"]
