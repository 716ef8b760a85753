import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import random_keys
from quped_jax.experiment.training import make_training
from quped_jax.methods import per_fedavg
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT
ALPHA, DELTA = 0.3, 1e-3


def toy_objectives():
  """Three losses with Hessians that are neither constant nor diagonal."""
  directions = np.random.default_rng(0).normal(size=(3, 4, 3))

  def make(rows):
    def objective(params, stats):
      outputs = jnp.asarray(rows) @ params["w"]
      loss = jnp.sum(jnp.log(jnp.cosh(outputs)) + outputs / 3)
      return loss, {"seen": stats["seen"] + 1}

    return objective

  return [make(rows) for rows in directions]


def toy_point():
  return jnp.array([0.3, -0.5, 0.2])


def gradient(objective, w):
  return jax.grad(lambda w: objective({"w": w}, {"seen": 0})[0])(w)


def made_gradient(objectives, alpha=ALPHA, delta=DELTA):
  """The gradient that a learner takes, and the loss that it reports."""
  meta = per_fedavg.meta_objective(objectives, alpha, delta)
  (loss, stats), grads = jax.value_and_grad(meta, has_aux=True)(
    {"w": toy_point()}, {"seen": 0}
  )
  assert stats["seen"] == 2
  return loss, grads["w"]


def test_the_first_order_gradient_is_taken_where_the_step_leads():
  first, second, _ = toy_objectives()
  w = toy_point()
  adapted = w - ALPHA * gradient(first, w)
  loss, grads = made_gradient([first, second])
  np.testing.assert_allclose(loss, second({"w": adapted}, {"seen": 0})[0])
  np.testing.assert_allclose(grads, gradient(second, adapted), rtol=1e-5)
  assert np.abs(grads - gradient(second, w)).max() > 0.1


@pytest.mark.slow
def test_the_hessian_free_gradient_is_that_of_the_paper():
  with jax.enable_x64(True):
    first, second, third = toy_objectives()
    w = toy_point()
    v = gradient(second, w - ALPHA * gradient(first, w))
    change = gradient(third, w + DELTA * v) - gradient(third, w - DELTA * v)
    _, grads = made_gradient([first, second, third])
    expected = v - ALPHA * change / (2 * DELTA)
    np.testing.assert_allclose(grads, expected, rtol=1e-12)


def test_it_approaches_the_exact_meta_gradient():
  """With B3 = B1 it is the gradient of f(w - alpha grad f(w)) at delta = 0."""
  with jax.enable_x64(True):
    first, second, _ = toy_objectives()

    def adapted_loss(w):
      adapted = w - ALPHA * gradient(first, w)
      return second({"w": adapted}, {"seen": 0})[0]

    exact = jax.grad(adapted_loss)(toy_point())
    errors = [
      np.abs(made_gradient([first, second, first], delta=d)[1] - exact).max()
      for d in (1e-1, 1e-2, 1e-3)
    ]
    plain = np.abs(made_gradient([first, second])[1] - exact).max()
  # Of second order in delta.
  assert errors[1] < errors[0] / 50 and errors[2] < errors[1] / 50
  assert errors[2] < 1e-4 < plain


def test_without_the_inner_step_it_is_the_plain_gradient():
  objectives = toy_objectives()
  expected = gradient(objectives[1], toy_point())
  for count in (2, 3):
    _, grads = made_gradient(objectives[:count], alpha=0.0)
    np.testing.assert_allclose(grads, expected, rtol=1e-6)


def test_the_gradient_flows_on_through_a_quantizer():
  first, second, third = toy_objectives()
  meta = per_fedavg.meta_objective([first, second, third], ALPHA, DELTA)
  outer = jax.grad(lambda w: meta({"w": jnp.sin(w)}, {"seen": 0})[0])
  w = jnp.arcsin(toy_point())
  _, expected = made_gradient([first, second, third])
  np.testing.assert_allclose(outer(w), expected * jnp.cos(w), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["first_order", "hessian_free"])
def test_local_steps_draw_their_batches_apart(variant):
  """Each on a single sample, in the order in which they are drawn."""
  steps, alpha, delta = 2, 0.2, 0.05
  settings = tiny.make_settings(
    "per_fedavg", 1, bits=(32,), steps=steps, batch_size=3,
    method_options={
      "per_fedavg": {"variant": variant, "alpha": alpha, "delta": delta}
    },
  )  # fmt: skip
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  made = tiny.make_method(settings, model)
  federation = tiny.make_federation((23,))
  context = toy.make_context()
  data = federation.client(jnp.int32(0))
  (server, _) = toy.begin(made, federation)
  end, _ = toy.play(made, federation, 1)

  draw_key, _ = jax.random.split(context.key)
  batches = 3 if variant == "hessian_free" else 2
  drawn = [data.batch(p) for p in data.draw(draw_key, steps * batches, 3)]

  @jax.jit
  def grad(params, batch):
    def loss(params):
      logits, _ = model.apply(params, {}, batch.inputs, True)
      return make_training(qj.Settings()).loss(logits, batch.labels)

    return jax.grad(loss)(params)

  def move(params, direction, size):
    return jax.tree.map(lambda p, d: p + size * d, params, direction)

  w = server.params
  for step in range(steps):
    first, second, *third = drawn[step * batches : (step + 1) * batches]
    v = grad(move(w, grad(w, first), -alpha), second)
    for batch in third:
      ahead, behind = (grad(move(w, v, s * delta), batch) for s in (1, -1))
      change = jax.tree.map(jnp.subtract, ahead, behind)
      v = move(v, change, -alpha / (2 * delta))
    w = move(w, v, -toy.RATE)
  assert tiny.largest_difference(end.params, w) < 1e-5
  assert tiny.largest_difference(end.params, server.params) > 1e-3
  evaluations = {"first_order": 2, "hessian_free": 4}[variant]
  assert made.gradients == steps * evaluations


@pytest.mark.slow
def test_clients_are_evaluated_after_one_step_on_their_data():
  played = toy.check_learns("per_fedavg", alpha=0.1)
  made, end = played.made, played.states[-1]
  assert set(played.accuracy) == {"personalized", "quantized", "global"}
  client = tiny.client(end.clients[COHORT], 0)
  data = made.federation.client(jnp.int32(3))
  context = toy.make_context(3)
  models = jax.jit(
    lambda server, client: {
      name: variant[0]
      for name, variant in made.method.variants(
        server, client, data, context, COHORT
      ).items()
    }
  )(end.server, client)
  assert tiny.largest_difference(models["global"], end.server.params) == 0
  key = jax.random.fold_in(context.key, random_keys.PER_FEDAVG_ADAPTATION)
  (positions,) = data.draw(key, 1, tiny.BATCH)
  batch = data.batch(positions)

  def loss(params):
    logits, _ = made.model.apply(params, {}, batch.inputs, True)
    return make_training(made.settings).loss(logits, batch.labels)

  expected = jax.tree.map(
    lambda p, g: p - 0.1 * g,
    end.server.params,
    jax.grad(loss)(end.server.params),
  )
  assert tiny.largest_difference(models["personalized"], expected) < 1e-5
  # The 1-bit client's adapted model, at its levels.
  kernel = np.asarray(models["quantized"]["hidden_1"]["kernel"])
  levels = client.codebooks["hidden_1"]["kernel"].centers[:2]
  assert set(np.unique(kernel)) == set(np.asarray(levels))
  adapted = np.asarray(expected["hidden_1"]["kernel"])
  nearest = levels[np.abs(adapted[..., None] - levels).argmin(axis=-1)]
  np.testing.assert_allclose(kernel, nearest)
  first = models["quantized"]["first"]
  assert tiny.largest_difference(first, expected["first"]) < 1e-5


@pytest.mark.slow
def test_at_full_precision_the_adapted_model_is_reported():
  played = toy.run("per_fedavg", 1, bits=(32,), evaluate=True)
  assert set(played.accuracy) == {"personalized", "global"}
  assert played.made.simulation.primary_variant == "personalized"


@pytest.mark.slow
def test_the_hessian_free_variant_learns_with_quantized_clients():
  played = toy.check_learns("per_fedavg", variant="hessian_free")
  # Four gradients for each of the three of an alternating step.
  assert played.made.simulation.gradients == 5 * 3 * 4


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("variant", "exact", "per_fedavg.variant='exact': must be one of first"),
    ("alpha", -1.0, "per_fedavg.alpha=-1.0: must be at least 0"),
    ("delta", 0.0, "per_fedavg.delta=0.0: must be positive"),
    ("weighting", "x", "per_fedavg.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"per_fedavg": {option: value}})
