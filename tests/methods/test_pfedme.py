import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api
from quped_jax.quantization import alternating
from tests import alone, tiny
from tests.methods import toy

RATE = 0.1


def envelope(model, batch, w, lambda_p):
  def loss(theta):
    distances = jax.tree.map(lambda t, w: jnp.sum((t - w) ** 2), theta, w)
    tied = lambda_p / 2 * sum(jax.tree.leaves(distances))
    return (
      alone.labels_loss(alone.logits(model, theta, batch), batch.labels) + tied
    )

  return loss


@pytest.mark.slow
def test_theta_approaches_its_inner_optimum_as_it_takes_more_steps():
  model, lambda_p = alone.linear(), 2.0

  def optimum(played):
    w = played.download.params
    loss = envelope(model, played.batches[0], w, lambda_p)

    def step(_, theta):
      return alone.descend(theta, jax.grad(loss)(theta), 0.05)

    return jax.jit(lambda: jax.lax.fori_loop(0, 1000, step, w))()

  errors, best = [], None
  for inner_steps in (1, 2, 4, 32):
    options = {"lambda_p": lambda_p, "inner_steps": inner_steps}
    made = alone.make("pfedme", steps=1, shared=model, **options)
    played = alone.play(made)
    best = optimum(played) if best is None else best
    theta = played.result.client.params
    errors.append(tiny.largest_difference(theta, best))
  assert errors == sorted(errors, reverse=True)
  assert errors[0] > 1e-2 and errors[-1] < 1e-2 * errors[0]


def test_local_steps_are_those_of_the_paper():
  lambda_p, eta, inner_steps = 4.0, 0.2, 3
  made = alone.make(
    "pfedme", lambda_p=lambda_p, eta=eta, inner_steps=inner_steps
  )
  played = alone.play(made)

  def by_hand(w):
    theta = w
    for batch in played.batches:
      loss = envelope(made.models.shared, batch, w, lambda_p)
      for _ in range(inner_steps):
        theta = alone.descend(theta, jax.grad(loss)(theta), RATE)
      w = jax.tree.map(lambda w, t: w - eta * lambda_p * (w - t), w, theta)
    return w, theta

  w, theta = jax.jit(by_hand)(played.download.params)
  assert tiny.largest_difference(played.result.client.params, theta) < 1e-5
  assert tiny.largest_difference(alone.sent(played), w) < 1e-5
  assert tiny.largest_difference(w, played.download.params) > 1e-2
  assert tiny.largest_difference(w, theta) > 1e-2


def test_theta_starts_from_the_global_model_and_keeps_the_rest():
  made = alone.make("pfedme", bits=2, steps=1, inner_steps=1)
  client = alone.start(made, seed=1)
  other = client._replace(params=alone.start(made, seed=3).params)
  one, two = (alone.play(made, c).result for c in (client, other))
  assert tiny.largest_difference(one, two) == 0
  levels = jax.tree.map(
    lambda x: 0.9 * x if x.dtype == jnp.float32 else x, client.codebooks
  )
  three = alone.play(made, client._replace(codebooks=levels)).result
  assert tiny.largest_difference(one.client, three.client) > 1e-3


def test_in_the_fine_tuning_phase_theta_goes_on_from_its_levels():
  made = alone.make("pfedme", bits=2, steps=1, inner_steps=1)
  frozen = alternating.freeze(alone.start(made))
  assert frozen.assignments is not None
  played = alone.play(made, frozen)
  new = played.result.client
  index = frozen.assignments["hidden_1"]["kernel"]
  centers = new.codebooks["hidden_1"]["kernel"].centers
  np.testing.assert_array_equal(
    new.params["hidden_1"]["kernel"], centers[index]
  )
  # From its old place it is pulled towards w, by 1.5 times the distance.
  for layer in ("first", "last"):
    before = played.start.params[layer]
    after, w = new.params[layer], played.download.params[layer]
    distance = [
      np.linalg.norm(x["kernel"] - w["kernel"]) for x in (before, after)
    ]
    assert 0.3 < distance[1] / distance[0] < 0.7


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_server_mixes_the_mean_into_its_model(beta):
  made = alone.make("pfedme", beta=beta)
  server = api.GlobalModel({"w": jnp.float32(2)}, {"mean": jnp.float32(1)})

  def after(weights):
    received = [4.0, 8.0]
    sums = [
      made.method.receive(
        server,
        api.GlobalModel({"w": jnp.float32(w - 2)}, {"mean": jnp.float32(1)}),
        weight,
        None,
        tiny.COHORT,
      )
      for w, weight in zip(received, weights, strict=True)
    ]
    total = jax.tree.map(jnp.add, *sums)
    return made.method.server_update(
      server, {tiny.COHORT: total}, toy.at_server()
    )

  # (1 - beta) w + beta mean, of parameters; the mean, of statistics.
  new = after((3.0, 1.0))
  np.testing.assert_allclose(new.params["w"], (1 - beta) * 2 + beta * 5)
  np.testing.assert_allclose(new.stats["mean"], 2)
  assert after((0.0, 0.0)) == server


def test_clients_weigh_by_their_samples_or_equally():
  for weighting, expected in (("samples", alone.COUNT), ("uniform", 1.0)):
    made = alone.make("pfedme", shared=alone.linear(), weighting=weighting)
    assert alone.play(made).result.weight == expected


def test_gradients_count_the_inner_steps():
  for bits, views in ((2, 3), (32, 1)):
    made = alone.make("pfedme", bits=bits, steps=4, inner_steps=7)
    assert made.method.gradients == 4 * 7 * views


def test_new_clients_and_all_variants_have_their_models():
  made = alone.make("pfedme", bits=2)
  client = alone.start(made)
  server = made.method.init_server(jax.random.key(0), jnp.ones((1, 6)))
  variants = made.method.variants(
    server, client, made.data, made.context, tiny.COHORT
  )
  assert set(variants) == {"personalized", "quantized", "global"}
  assert variants["personalized"][0] is client.params
  deployed, _ = alternating.deployed(client)
  assert tiny.largest_difference(variants["quantized"][0], deployed) == 0
  assert variants["global"][0] is server.params


@pytest.mark.slow
def test_clients_of_any_precision_learn():
  # The step size times lambda is 1.5.
  alone.check_learning("pfedme")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"inner_steps": 0}, "pfedme.inner_steps=0: must be at least 1"),
    ({"lambda_p": -1.0}, "pfedme.lambda_p=-1.0: must be positive"),
    ({"eta": 0.0}, "pfedme.eta=0.0: must be positive"),
    (
      {"eta": 0.1, "lambda_p": 10.0},
      "pfedme.eta=0.1: must be below 0.1, which is 1 / pfedme.lambda_p",
    ),
    ({"beta": 0.0}, "pfedme.beta=0.0: must be positive"),
    ({"weighting": "x"}, "pfedme.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"pfedme": options})


def test_all_clients_need_the_global_architecture():
  with pytest.raises(ValueError, match="pfedme averages weights"):
    alone.make("pfedme", own=alone.mlp(4))
