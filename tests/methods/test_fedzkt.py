import jax
import jax.numpy as jnp
import pytest

import quped_jax as qj
from quped_jax import random_keys
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from tests import tiny
from tests.methods import publics, toy

COHORT = tiny.COHORT
WIDTHS = {"small": (3,), "large": (4,)}
OPTIONS = {
  "iterations": 1,
  "generator_optimizer": "sgd",
  "generator_learning_rate": 0.3,
  "distill_steps": 2,
  "distill_optimizer": "sgd",
  "distill_learning_rate": 0.5,
  "transfer_steps": 1,
  "noise_size": 3,
  "hidden": (5,),
}


def make(**options):
  """Two clients, 0 small and 2 large; client 1 is not heard."""
  federation = tiny.make_federation(publics.COUNTS)
  entry = qj.methods.get_method("fedzkt")
  models = {name: publics.make_model(width) for name, width in WIDTHS.items()}
  settings = tiny.make_settings("fedzkt", 3, bits=(32,))
  made = entry.build(
    api.Models(publics.make_model((6,)), models),
    make_training(settings),
    entry.options(**{**OPTIONS, **options}),
    federation,
  )
  server = made.init_server(jax.random.key(0), federation.example())
  return made, server, publics.make_context(federation)


def message_of(server, cohort):
  own = jax.tree.map(lambda x: x[0], server.clients[cohort])
  return publics.random_like(own, len(cohort))


def after(made, server, context, weights=(1.0, 0.0, 1.0)):
  """The server after a round, in which each client has a slot of its cohort."""
  members = {"small": [0, 1], "large": [2]}

  @jax.jit
  def play():
    aggregates = {}
    for cohort, ids in members.items():
      message = message_of(server, cohort)
      parts = jax.tree.map(lambda *x: jnp.stack(x), *[message] * len(ids))
      own = jnp.array([weights[i] for i in ids])
      aggregates[cohort] = api.Aggregate(
        (), jnp.sum(own), api.Collected(jnp.array(ids), parts, own)
      )
    return made.server_update(server, aggregates, context)

  return play()


def hand_generate(params, noise):
  outputs = jnp.tanh(toy.hand_forward(params, noise))
  return (outputs - outputs.mean(0)) / jnp.sqrt(outputs.var(0) + 1e-5)


def hand_distance(params, inputs, targets):
  said = toy.hand_softmax(toy.hand_forward(params, inputs))
  return jnp.abs(said - targets).sum(1).mean()


def hand_round(server, context):
  """The model, the generator, and the models of the clients 0 and 2."""
  key = jax.random.fold_in(context.key, random_keys.INPUT_GENERATOR)
  key, lesson_key, _ = jax.random.split(key, 3)
  (key,), (lesson_key,) = (jax.random.split(k, 1) for k in (key, lesson_key))
  noise = jax.random.normal(jax.random.split(key)[0], (tiny.BATCH, 3))
  teachers = {
    cohort: jax.tree.map(
      lambda w, d: w[0] + d, server.clients[cohort], message_of(server, cohort)
    ).params
    for cohort in WIDTHS
  }

  def ensemble(inputs):
    return (
      sum(
        toy.hand_softmax(toy.hand_forward(teacher, inputs))
        for teacher in teachers.values()
      )
      / 2
    )

  def agreement(params):
    inputs = hand_generate(params, noise)
    return -hand_distance(server.model.params, inputs, ensemble(inputs))

  def step(params, rate, loss, *args):
    grads = jax.grad(loss)(params, *args)
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)

  generator = step(server.generator, 0.3, agreement)
  inputs = hand_generate(generator, noise)
  model = server.model.params
  for _ in range(2):
    model = step(model, 0.5, hand_distance, inputs, ensemble(inputs))
  noise = jax.random.normal(lesson_key, (tiny.BATCH, 3))
  inputs = hand_generate(generator, noise)
  targets = toy.hand_softmax(toy.hand_forward(model, inputs))
  clients = {
    cohort: step(teacher, 0.5, hand_distance, inputs, targets)
    for cohort, teacher in teachers.items()
  }
  return model, generator, clients


@pytest.mark.slow
def test_a_round_of_the_server_is_that_written_out_by_hand():
  made, server, context = make()
  new = after(made, server, context)
  model, generator, clients = jax.jit(lambda: hand_round(server, context))()
  assert tiny.largest_difference(new.model.params, model) < 1e-5
  assert tiny.largest_difference(new.generator, generator) < 1e-5
  for cohort, index in (("small", 0), ("large", 2)):
    own = tiny.client(new.clients[cohort].params, index)
    assert tiny.largest_difference(own, clients[cohort]) < 1e-5
  for first, second in (
    (model, server.model.params), (generator, server.generator)
  ):  # fmt: skip
    assert tiny.largest_difference(first, second) > 1e-3
  # Who was not heard, and rows of no client of a cohort, stay as they were.
  for cohort, index in (("small", 1), ("small", 2), ("large", 0)):
    before, later = (
      tiny.client(s.clients[cohort], index) for s in (server, new)
    )
    assert tiny.largest_difference(before, later) == 0


@pytest.mark.slow
def test_without_steps_at_the_server_it_keeps_what_it_received():
  made, server, context = make(iterations=0, transfer_steps=0)
  new = after(made, server, context)
  assert tiny.largest_difference(new.model, server.model) == 0
  expected = jax.tree.map(
    lambda w, d: w[2] + d, server.clients["large"], message_of(server, "large")
  )
  own = tiny.client(new.clients["large"], 2)
  assert tiny.largest_difference(own, expected) < 1e-6
  received = made.broadcast(new, tiny.about(2), "large")
  assert tiny.largest_difference(received, own) == 0
  nobody = after(made, server, context, (0.0,) * 3)
  assert tiny.largest_difference(nobody, server) == 0


def play_client(name, change=lambda download: download, **options):
  """A client's round: its download, its ClientResult, and its batches."""
  federation = tiny.make_federation(publics.COUNTS)
  model = publics.make_model((5,))
  made = publics.make_method(name, federation, model=model, **options)
  context = publics.make_context(federation)
  data = federation.client(context.client_id)

  @jax.jit
  def play():
    key, example = jax.random.key(0), federation.example()
    server = made.init_server(key, example)
    client = made.init_client(
      key, example, server, context.client_id, context.spec, COHORT
    )
    download = change(made.broadcast(server, context, COHORT))
    result = made.client_update(download, client, data, context, COHORT)
    return download, result

  steps = tiny.make_settings(name, 1).steps
  draw_key, _ = jax.random.split(context.key)
  positions = data.draw(draw_key, steps, tiny.BATCH)
  return *play(), [data.batch(p) for p in positions]


@pytest.mark.slow
def test_without_the_proximal_term_a_client_trains_alone():
  """As long as the server does not change its model, see above."""
  _, own, _ = play_client("fedzkt", mu=0.0)
  _, local, _ = play_client("local")
  assert tiny.largest_difference(own.client, local.client) < 1e-6


@pytest.mark.slow
def test_a_client_starts_from_what_it_receives_and_stays_close_to_it():
  download, result, batches = play_client(
    "fedzkt", lambda x: jax.tree.map(lambda w: 0.5 * w + 0.1, x), mu=0.8
  )

  def loss(params, batch):
    apart = jax.tree.map(
      lambda p, w: jnp.sum((p - w) ** 2), params, download.params
    )
    logits = toy.hand_forward(params, batch.inputs)
    labels = toy.hand_labels(logits, batch.labels)
    return labels + 0.4 * sum(jax.tree.leaves(apart))

  expected = toy.descend(download.params, loss, batches)
  assert tiny.largest_difference(result.client.params, expected) < 1e-5
  moved = jax.tree.map(jnp.subtract, expected, download.params)
  assert tiny.largest_difference(result.message.params, moved) < 1e-5
  assert toy.norm(moved) > 1e-2


def test_a_model_goes_down_and_comes_up():
  federation = tiny.make_federation(publics.COUNTS)
  simulation = publics.simulate("fedzkt", federation)
  # 6 -> 8 -> 8 -> 4, with biases.
  size = 4 * ((6 * 8 + 8) + (8 * 8 + 8) + (8 * 4 + 4))
  assert simulation.bytes_up == simulation.bytes_down == size


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("iterations", -1, "iterations=-1: must be at least 0"),
    ("transfer_steps", -1, "transfer_steps=-1: must be at least 0"),
    ("mu", -1.0, "mu=-1.0: must be at least 0"),
    ("hidden", (0,), "hidden=0: must be at least 1"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedzkt.{message}"):
    qj.Settings(method_options={"fedzkt": {option: value}})
