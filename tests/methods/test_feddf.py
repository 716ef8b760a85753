import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import distill
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation(labelled=False)


def make(federation, **options):
  """The method, its model and server, the server's context, two messages."""
  model = publics.make_model()
  made = publics.make_method("feddf", federation, model=model, **options)
  server = made.init_server(jax.random.key(0), federation.example())
  messages = [
    publics.random_like(server.models[COHORT], seed) for seed in (1, 2)
  ]
  return made, model, server, publics.make_context(federation), messages


def test_the_teacher_is_the_mean_of_the_clients_logits(federation):
  made, model, server, context, messages = make(federation)
  sent = [
    jax.tree.map(jnp.add, server.models[COHORT], message)
    for message in messages
  ]
  expected = sum(publics.logits_of(federation, model, s) for s in sent) / 2
  # Logits count equally, whatever the weights in the mean of parameters.
  total = publics.heard(made, server, messages, (3.0, 1.0), context).total
  np.testing.assert_allclose(total.count, 2)
  np.testing.assert_allclose(total.said / 2, expected, atol=1e-5)
  # A client of weight zero has no influence.
  total = publics.heard(made, server, messages, (3.0, 0.0), context).total
  np.testing.assert_allclose(total.count, 1)
  first = publics.logits_of(federation, model, sent[0])
  np.testing.assert_allclose(total.said, first, atol=1e-5)


def test_one_client_alone_teaches_like_two_of_its_kind(federation):
  made, _, server, context, messages = make(federation, distill_steps=3)

  @jax.jit
  def step(aggregate):
    return made.server_update(server, {COHORT: aggregate}, context)

  alone, both = (
    step(
      publics.heard(made, server, messages[:1] * count, (1.0,) * count, context)
    )
    for count in (1, 2)
  )
  chex.assert_trees_all_close(alone, both, atol=1e-5)
  assert tiny.largest_difference(alone, server) > 1e-2


@pytest.mark.slow
def test_distillation_brings_the_student_nearer_to_the_teacher(federation):
  distances = []
  for steps in (0, 100):
    made, model, server, context, messages = make(
      federation, distill_steps=steps, distill_learning_rate=3e-3
    )
    sums = publics.heard(made, server, messages, (3.0, 1.0), context)
    new = jax.jit(made.server_update)(server, {COHORT: sums}, context)
    student = publics.logits_of(federation, model, new.models[COHORT])
    teacher = sums.total.said / sums.total.count
    distances.append(float(distill.kl_divergence(teacher, student)))
    if not steps:
      mean = jax.tree.map(lambda a, b: (3 * a + b) / 4, *messages)
      expected = jax.tree.map(jnp.add, server.models[COHORT], mean)
      assert tiny.largest_difference(new.models[COHORT], expected) < 1e-6
  assert distances[1] < 0.3 * distances[0]


@pytest.mark.slow
def test_a_server_that_hears_nobody_stays_as_it_is(federation):
  made, _, server, context, messages = make(federation, distill_steps=3)
  sums = publics.heard(made, server, messages, (0.0, 0.0), context)
  new = made.server_update(server, {COHORT: sums}, context)
  assert tiny.largest_difference(new, server) == 0


@pytest.mark.slow
def test_without_distillation_it_is_fedavg(federation):
  simulation = publics.simulate("feddf", federation, distill_steps=0)
  own, _ = publics.play(simulation, 3)
  plain = publics.simulate("fedavg", federation)
  fedavg, _ = publics.play(plain, 3)
  difference = tiny.largest_difference(
    own.server.models[COHORT], fedavg.server.model
  )
  assert difference < 1e-6
  taught, _ = publics.play(publics.simulate("feddf", federation), 1)
  assert tiny.largest_difference(own.server, taught.server) > 1e-3
  assert simulation.bytes_up == simulation.bytes_down == plain.bytes_up


@pytest.mark.slow
def test_every_architecture_has_a_student_that_all_clients_teach(federation):
  small, large = publics.make_model((4,)), publics.make_model((8, 8))
  training = make_training(tiny.make_settings("feddf", 3, bits=(32,)))
  entry = qj.methods.get_method("feddf")
  made = entry.build(
    api.Models(large, {"small": small, "large": large}),
    training,
    entry.options(distill_steps=100, distill_learning_rate=3e-3),
    federation,
  )
  context = publics.make_context(federation)
  server = made.init_server(jax.random.key(0), federation.example())
  models = {"small": small, "large": large}
  message = {
    name: publics.random_like(server.models[name], seed)
    for seed, name in enumerate(models)
  }
  sums = {
    name: made.receive(server, message[name], 1.0, context, name)
    for name in models
  }
  new = jax.jit(made.server_update)(server, sums, context)
  teacher = (sums["small"].total.said + sums["large"].total.said) / 2
  for name, model in models.items():
    before = jax.tree.map(jnp.add, server.models[name], message[name])
    distances = [
      distill.kl_divergence(
        teacher, publics.logits_of(federation, model, student)
      )
      for student in (before, new.models[name])
    ]
    assert distances[1] < 0.6 * distances[0]
    assert made.broadcast(new, tiny.about(0), name) is new.models[name]
    assert made.global_model is not None
    params, _, network = made.global_model(new, name)
    assert network is model and params is new.models[name].params


@pytest.mark.slow
def test_some_clients_may_stay_away(federation):
  simulation = publics.simulate(
    "feddf", federation, settings={"clients_per_round": 1}, distill_steps=5
  )
  state, losses = publics.play(simulation, 3)
  assert np.all(np.isfinite(losses))
  chex.assert_tree_all_finite(state.server)


@pytest.mark.slow
def test_clients_of_all_precisions_learn():
  publics.check_learns("feddf")


def test_it_needs_a_public_set_and_one_architecture(federation):
  with pytest.raises(ValueError, match="public_size=0: .*'feddf'"):
    publics.make_method("feddf", None)
  with pytest.raises(ValueError, match="shared_model='mlp': must be the"):
    publics.make_method("feddf", federation, shared=publics.make_model((3,)))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("distill_steps", -1, "distill_steps=-1: must be at least 0"),
    ("distill_learning_rate", 0.0, "distill_learning_rate=0.0: must be pos"),
    ("distill_optimizer", "x", "distill_optimizer='x': must be one of sgd"),
    ("temperature", 0.0, "temperature=0.0: must be positive"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"feddf.{message}"):
    qj.Settings(method_options={"feddf": {option: value}})
