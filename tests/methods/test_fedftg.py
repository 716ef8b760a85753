import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import random_keys
from quped_jax.methods.blocks import counted, generator
from tests import tiny
from tests.methods import publics, toy

COHORT = tiny.COHORT
# Of the clients, whose weights are 3, 1 and 0.
COUNTS = jnp.array([[6.0, 2.0, 0.0, 0.0], [0.0, 2.0, 0.0, 5.0], [9.0] * 4])
WEIGHTS = (3.0, 1.0, 0.0)
OPTIONS = {
  "iterations": 1,
  "generator_optimizer": "sgd",
  "generator_learning_rate": 0.3,
  "distill_steps": 2,
  "distill_learning_rate": 0.5,
  "recognition": 0.7,
  "diversity": 0.9,
  "noise_size": 3,
  "hidden": (5,),
}


def make(**options):
  federation = tiny.make_federation(publics.COUNTS)
  model = publics.make_model((5,))
  made = publics.make_method("fedftg", federation, model=model, **options)
  server = made.init_server(jax.random.key(0), federation.example())
  return made, server, publics.make_context(federation)


def messages_of(server):
  models = [publics.random_like(server.model, seed) for seed in (1, 2)]
  models.append(jax.tree.map(lambda x: 50 * jnp.ones_like(x), models[0]))
  return [
    counted.Counted(model, counts)
    for model, counts in zip(models, COUNTS, strict=True)
  ]


def after(made, server, context, weights=WEIGHTS):
  @jax.jit
  def play(sent):
    sums = publics.heard(made, server, sent, weights, context)
    return made.server_update(server, {COHORT: sums}, context)

  return play(messages_of(server))


def mean_of(server):
  first, second, _ = messages_of(server)
  return jax.tree.map(
    lambda w, a, b: w + (3 * a + b) / 4,
    server.model, first.model, second.model,
  )  # fmt: skip


def test_shares_of_a_label_add_up_to_one_where_anybody_has_it():
  shares = generator.label_shares(COUNTS[:2])
  np.testing.assert_allclose(np.sum(shares, axis=0), [1, 1, 0, 1])
  np.testing.assert_allclose(shares[0], [1, 0.5, 0, 0])


@pytest.mark.slow
def test_without_turns_it_is_fedavg():
  made, server, context = make(**OPTIONS | {"iterations": 0})
  new = after(made, server, context)
  assert tiny.largest_difference(new.model, mean_of(server)) < 1e-6
  assert tiny.largest_difference(new.generator, server.generator) == 0


def hand_generate(params, noise, labels):
  outputs = jnp.tanh(
    toy.hand_forward(params, jnp.concatenate([noise, labels], axis=1))
  )
  return (outputs - outputs.mean(0)) / jnp.sqrt(outputs.var(0) + 1e-5)


def hand_turns(server, context):
  """One turn of the generator, and one of the model."""
  key = jax.random.fold_in(context.key, random_keys.INPUT_GENERATOR)
  (key,) = jax.random.split(key, 1)
  noise_key, label_key, _ = jax.random.split(key, 3)
  noise = jax.random.normal(noise_key, (tiny.BATCH, 3))
  labels = jax.random.categorical(
    label_key, jnp.log(jnp.array([6.0, 4.0, 0.0, 5.0])), shape=(tiny.BATCH,)
  )
  hot = jnp.eye(4)[labels]
  student = mean_of(server).params
  teachers = [
    jax.tree.map(jnp.add, server.model.params, message.model.params)
    for message in messages_of(server)[:2]
  ]
  shares = jnp.array([[1.0, 0.5, 0.0, 0.0], [0.0, 0.5, 0.0, 1.0]])[:, labels]

  def of_client(params, teacher, share):
    inputs = hand_generate(params, noise, hot)
    ours = toy.hand_forward(student, inputs)
    theirs = toy.hand_forward(teacher, inputs)
    fixed = jax.lax.stop_gradient(theirs)
    said = jnp.log(toy.hand_softmax(theirs))[jnp.arange(tiny.BATCH), labels]
    apart = jnp.abs(ours - fixed).mean(1)
    far = jnp.abs(inputs[:, None] - inputs[None]).mean(2)
    seeds = jnp.square(noise[:, None] - noise[None]).mean(2)
    alike = jnp.exp(-(far * seeds).mean())
    return (share * (-apart - 0.7 * said)).mean() + 0.9 * alike / 2

  params = server.generator
  for teacher, share in zip(teachers, shares, strict=True):
    grads = jax.grad(of_client)(params, teacher, share)
    params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
  inputs = hand_generate(params, noise, hot)
  targets = sum(
    share[:, None] * toy.hand_softmax(toy.hand_forward(teacher, inputs))
    for teacher, share in zip(teachers, shares, strict=True)
  )

  def of_model(student):
    said = jnp.log(toy.hand_softmax(toy.hand_forward(student, inputs)))
    return -(targets * said).mean()

  for _ in range(2):
    grads = jax.grad(of_model)(student)
    student = jax.tree.map(lambda p, g: p - 0.5 * g, student, grads)
  return student, params


@pytest.mark.slow
def test_turns_are_those_written_out_by_hand():
  """And a client of no weight has no part in them."""
  made, server, context = make(**OPTIONS)
  new = after(made, server, context)
  student, params = jax.jit(lambda: hand_turns(server, context))()
  assert tiny.largest_difference(new.model.params, student) < 1e-5
  assert tiny.largest_difference(new.generator, params) < 1e-5
  assert tiny.largest_difference(student, mean_of(server).params) > 1e-3
  assert tiny.largest_difference(params, server.generator) > 1e-3


@pytest.mark.slow
def test_a_server_that_hears_nobody_stays_as_it_is():
  made, server, context = make(**OPTIONS)
  new = after(made, server, context, (0.0,) * 3)
  assert tiny.largest_difference(new, server) == 0


def test_counts_go_up_and_must_be_possible():
  federation = tiny.make_federation(publics.COUNTS)
  simulation = publics.simulate("fedftg", federation)
  fedavg = publics.simulate("fedavg", federation)
  assert simulation.bytes_down == fedavg.bytes_down
  assert simulation.bytes_up == fedavg.bytes_up + 4 * tiny.CLASSES
  made, server, _ = make(**OPTIONS)
  message = messages_of(server)[0]
  assert bool(made.plausible(message, 8).counts)
  assert not bool(made.plausible(message, 7).counts)


def test_it_needs_one_architecture():
  federation = tiny.make_federation(publics.COUNTS)
  with pytest.raises(ValueError, match="shared_model='mlp': must be the"):
    publics.make_method("fedftg", federation, shared=publics.make_model((3,)))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("iterations", -1, "iterations=-1: must be at least 0"),
    ("recognition", -1.0, "recognition=-1.0: must be at least 0"),
    ("diversity", -1.0, "diversity=-1.0: must be at least 0"),
    ("distill_steps", -1, "distill_steps=-1: must be at least 0"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedftg.{message}"):
    qj.Settings(method_options={"fedftg": {option: value}})
