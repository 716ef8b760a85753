import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api, fedbe
from tests import tiny
from tests.methods import publics, toy

COHORT = tiny.COHORT


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation(labelled=False)


def make(federation, **options):
  """The method, its model and server, the server's context, two messages."""
  model = publics.make_model((5,))
  made = publics.make_method("fedbe", federation, model=model, **options)
  server = made.init_server(jax.random.key(0), federation.example())
  messages = [
    publics.random_like(server.models[COHORT], seed) for seed in (1, 2)
  ]
  return made, model, server, publics.make_context(federation), messages


def test_directions_have_length_one_and_none_where_nothing_moved():
  d = {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros(3)}
  said = fedbe.say(api.GlobalModel(d, {}), jnp.zeros((2, 4)))
  np.testing.assert_allclose(said.directions["a"], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_allclose(said.squares["a"], [0.36, 0.64], rtol=1e-6)
  np.testing.assert_array_equal(said.directions["b"], 0.0)
  assert said.lengths["a"] == 5.0 and said.lengths["b"] == 0.0
  np.testing.assert_allclose(said.outputs, 0.25)


@pytest.mark.slow
def test_samples_are_of_the_gaussian_of_the_directions():
  moves = [jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])]
  w = {"a": jnp.array([1.0, -1.0])}
  said = jax.tree.map(
    lambda *x: sum(x),
    *(
      fedbe.say(api.GlobalModel({"a": d}, {}), jnp.zeros((1, 2))) for d in moves
    ),
  )
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = jax.vmap(lambda k: fedbe.draw(k, w, said, jnp.float32(2), 0.5))(keys)
  # Directions (0.6, 0.8) and (0, 1), lengths 5 and 2.
  mean = np.array([1.0, -1.0]) + 3.5 * np.array([0.3, 0.9])
  deviation = 3.5 * 0.5 * np.array([0.3, 0.1])
  np.testing.assert_allclose(np.mean(drawn["a"], axis=0), mean, atol=0.03)
  np.testing.assert_allclose(np.std(drawn["a"], axis=0), deviation, rtol=0.05)
  # One client alone, and no spread, leave nothing to draw.
  alone = fedbe.say(api.GlobalModel({"a": moves[0]}, {}), jnp.zeros((1, 2)))
  one = fedbe.draw(keys[0], w, alone, jnp.float32(1), 0.5)
  np.testing.assert_allclose(one["a"], w["a"] + moves[0], rtol=1e-5)


@pytest.fixture(scope="module")
def after(federation):
  """A round without samples: its method, messages, and models after it."""
  made, model, server, context, messages = make(
    federation,
    samples=0,
    temperature=1.0,
    distill_steps=1,
    distill_optimizer="sgd",
    distill_learning_rate=0.3,
  )
  plain, *_ = make(federation, distill_steps=0)
  lies = jax.tree.map(lambda x: 50 * jnp.ones_like(x), messages[0])

  @jax.jit
  def play(sent):
    sums = publics.heard(made, server, sent, (3.0, 1.0, 0.0), context)
    return [
      m.server_update(server, {COHORT: sums}, context).models[COHORT]
      for m in (made, plain)
    ]

  taught, mean = play([*messages, lies])
  return model, server.models[COHORT], context, messages, taught, mean


@pytest.mark.slow
def test_without_steps_it_is_fedavg(after):
  _, before, _, messages, _, mean = after
  expected = jax.tree.map(
    lambda w, a, b: w + (3 * a + b) / 4, before, *messages
  )
  assert tiny.largest_difference(mean, expected) < 1e-6


@pytest.mark.slow
def test_clients_and_their_mean_teach_by_probabilities(federation, after):
  """And a client of no weight does not."""
  model, before, context, messages, taught, mean = after

  @jax.jit
  def by_hand():
    sent = [jax.tree.map(jnp.add, before, message) for message in messages]
    said = [
      toy.hand_softmax(publics.logits_of(federation, model, teacher))
      for teacher in (mean, *sent)
    ]
    targets = (said[0] + said[1] + said[2]) / 3
    data = federation.public.data()
    position = data.draw(context.key, 1, tiny.BATCH)[0]
    inputs = data.batch(position).inputs

    def loss(params):
      student = toy.hand_softmax(toy.hand_forward(params, inputs))
      return toy.hand_kl(targets[position], student)

    grads = jax.grad(loss)(mean.params)
    return jax.tree.map(lambda p, g: p - 0.3 * g, mean.params, grads)

  expected = by_hand()
  assert tiny.largest_difference(taught.params, expected) < 1e-5
  assert tiny.largest_difference(expected, mean.params) > 1e-2


@pytest.mark.slow
def test_all_architectures_teach_each_student(federation):
  small, large = publics.make_model((3,)), publics.make_model((4,))
  models = {"small": small, "large": large}
  entry = qj.methods.get_method("fedbe")
  made = entry.build(
    api.Models(large, models),
    make_training(tiny.make_settings("fedbe", 3, bits=(32,))),
    entry.options(samples=2, distill_steps=3, distill_learning_rate=0.1),
    federation,
  )
  context = publics.make_context(federation)
  server = made.init_server(jax.random.key(0), federation.example())

  @jax.jit
  def update(scale, weight):
    message = {
      name: publics.random_like(server.models[name], 1) for name in models
    }
    message["large"] = jax.tree.map(lambda x: scale * x, message["large"])
    sums = {
      name: made.receive(server, message[name], weight[name], context, name)
      for name in models
    }
    return made.server_update(server, sums, context).models["small"]

  both, alone = {"small": 1.0, "large": 1.0}, {"small": 1.0, "large": 0.0}
  found = update(1.0, both)
  assert tiny.largest_difference(found, update(5.0, both)) > 1e-3
  assert tiny.largest_difference(found, update(1.0, alone)) > 1e-3
  # Of nobody heard, there is nothing to learn.
  same = tiny.largest_difference(update(1.0, alone), update(5.0, alone))
  assert same < 1e-6


@pytest.mark.slow
def test_a_temperature_of_a_half_squares_the_outputs(federation):
  """Seen in a student that learns them."""
  made, model, server, context, messages = make(
    federation, samples=0, distill_steps=400, averaged_steps=1,
    distill_optimizer="adam", distill_learning_rate=1e-2,
  )  # fmt: skip
  nothing = jax.tree.map(jnp.zeros_like, messages[0])
  start = server.models[COHORT]
  sums = publics.heard(made, server, [nothing], (1.0,), context)
  new = jax.jit(made.server_update)(server, {COHORT: sums}, context)
  first, last = (
    np.asarray(toy.hand_softmax(publics.logits_of(federation, model, m)))
    for m in (start, new.models[COHORT])
  )
  squares = first**2 / np.sum(first**2, axis=1, keepdims=True)
  assert np.abs(last - squares).max() < 0.1 * np.abs(first - squares).max()


def test_it_needs_a_public_set_and_one_architecture(federation):
  with pytest.raises(ValueError, match="public_size=0: .*'fedbe'"):
    publics.make_method("fedbe", None)
  with pytest.raises(ValueError, match="shared_model='mlp': must be the"):
    publics.make_method("fedbe", federation, shared=publics.make_model((3,)))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("distill_steps", -1, "distill_steps=-1: must be at least 0"),
    ("distill_learning_rate", 0.0, "distill_learning_rate=0.0: must be pos"),
    ("distill_optimizer", "x", "distill_optimizer='x': must be one of sgd"),
    ("samples", -1, "samples=-1: must be at least 0"),
    ("spread", -0.1, "spread=-0.1: must be at least 0"),
    ("temperature", 0.0, "temperature=0.0: must be positive"),
    ("averaged_steps", 0, "averaged_steps=0: must be at least 1"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedbe.{message}"):
    qj.Settings(method_options={"fedbe": {option: value}})
