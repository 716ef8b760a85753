import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT
HIDDEN = (5, 4)
LAYERS = ("first", "hidden_1", "last")


def hand_path(owners, inputs):
  """An MLP of three layers, each with the parameters of its owner."""
  x = inputs
  for name, params in zip(LAYERS, owners, strict=True):
    x = x @ params[name]["kernel"] + params[name]["bias"]
    x = x if name == "last" else jnp.maximum(x, 0)
  return x


def test_local_steps_are_those_of_the_paper():
  temperature = 2.0
  played = toy.play_one_client(
    "fedmlb", hidden=HIDDEN, lambda_1=0.5, lambda_2=3.0, temperature=temperature
  )
  w = played.download.params

  def loss(own, batch):
    main = hand_path((own, own, own), batch.inputs)
    terms = []
    for owners in ((own, w, w), (own, own, w)):
      branch = hand_path(owners, batch.inputs)
      softened = (toy.hand_softmax(x / temperature) for x in (branch, main))
      labels = toy.hand_labels(branch, batch.labels)
      terms.append(0.5 * labels + 3.0 * toy.hand_kl(*softened))
    return toy.hand_labels(main, batch.labels) + sum(terms) / 2

  params = toy.descend(w, loss, played.batches)
  sent = jax.tree.map(jnp.add, w, played.result.message.params)
  assert tiny.largest_difference(sent, params) < 1e-5


def test_without_weights_it_is_fedavg():
  off = toy.play_one_client("fedmlb", lambda_1=0.0, lambda_2=0.0)
  plain = toy.play_one_client("fedavg")
  assert tiny.largest_difference(off.result, plain.result) < 1e-6


@pytest.mark.slow
def test_at_first_branches_are_the_main_path():
  """So their divergence is zero, and has no gradient."""
  ends = [
    toy.play_one_client("fedmlb", steps=1, lambda_1=2.0, lambda_2=weight).result
    for weight in (0.0, 7.0)
  ]
  assert tiny.largest_difference(*ends) < 1e-6
  labels = toy.play_one_client("fedavg", steps=1).result.metrics["loss"]
  np.testing.assert_allclose(ends[1].metrics["loss"], 3 * labels, rtol=1e-5)


def test_a_branch_counts_by_its_blocks():
  settings = tiny.make_settings("fedmlb", 1, bits=(32,), steps=3)
  model = qj.create_model("mlp", tiny.CLASSES, features=HIDDEN)
  # Of three blocks, two and then one are the global model's.
  made = tiny.make_method(settings, model)
  assert made.gradients == pytest.approx(3 * (1 + 2 / 3 + 1 / 3))


class Normed(nn.Module):
  """Three blocks, of which the second only normalises."""

  @property
  def block_layers(self):
    return {name: (name,) for name in ("first", "norm", "last")}

  @nn.compact
  def __call__(self, inputs, train, only=None):
    parts = {
      "first": nn.Dense(5, name="first"),
      "norm": nn.BatchNorm(use_running_average=not train, name="norm"),
      "last": nn.Dense(tiny.CLASSES, name="last"),
    }
    for name, part in parts.items():
      if only is None or name in only:
        inputs = part(inputs)
    return inputs


@pytest.mark.slow
def test_blocks_of_the_global_model_have_its_running_statistics():
  settings = tiny.make_settings(
    "fedmlb", 1, bits=(32,), steps=1,
    method_options={"fedmlb": {"lambda_1": 2.0, "lambda_2": 0.0}},
  )  # fmt: skip
  federation = tiny.make_federation((23,))
  made = tiny.make_method(settings, qj.from_linen(Normed(), "normed_blocks"))
  server, (client,) = toy.begin(made, federation)
  context, data = toy.make_context(), federation.client(jnp.int32(0))
  result = jax.jit(made.client_update, static_argnums=4)(
    server, client, data, context, COHORT
  )
  draw_key, _ = jax.random.split(context.key)
  batch = data.batch(data.draw(draw_key, 1, tiny.BATCH)[0])

  def dense(name, x):
    layer = server.params[name]
    return x @ layer["kernel"] + layer["bias"]

  x = dense("first", batch.inputs)
  normed = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
  # Statistics that nothing has moved yet are means of 0 and variances of 1.
  main, first = (
    toy.hand_labels(dense("last", z), batch.labels)
    for z in (normed, x / np.sqrt(1 + 1e-5))
  )
  expected = main + 2.0 * (first + main) / 2
  np.testing.assert_allclose(result.metrics["loss"], expected, rtol=1e-4)
  assert abs(float(main - first)) > 1e-2
  # The client's own move, by one batch.
  moved = server.stats["norm"]["mean"] + result.message.stats["norm"]["mean"]
  np.testing.assert_allclose(moved, 0.01 * x.mean(axis=0), rtol=1e-3)


@pytest.mark.parametrize(
  ("model", "message"),
  [
    (toy.LINEAR, "model='linear': must have two blocks or more.*does not say"),
    (qj.create_model("mlp", 4, features=()), "model='mlp'.*; it has 1"),
  ],
)
def test_a_network_without_blocks_is_an_error(model, message):
  with pytest.raises(ValueError, match=message):
    tiny.make_method(tiny.make_settings("fedmlb", 1), model)


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("lambda_1", -0.1, "fedmlb.lambda_1=-0.1: must be at least 0"),
    ("lambda_2", float("inf"), "fedmlb.lambda_2=inf: must be finite"),
    ("temperature", 0.0, "fedmlb.temperature=0.0: must be positive"),
    ("weighting", "x", "fedmlb.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedmlb": {option: value}})
