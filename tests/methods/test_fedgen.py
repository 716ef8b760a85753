import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods.blocks import divided, generator
from tests import tiny
from tests.methods import publics

COHORT = tiny.COHORT


@pytest.fixture(scope="module")
def federation():
  return tiny.make_federation(publics.COUNTS)


def make(federation, **options):
  model = publics.make_model()
  made = publics.make_method("fedgen", federation, model=model, **options)
  return made, model, made.init_server(jax.random.key(0), federation.example())


def start(made, federation, server, context):
  return made.init_client(
    jax.random.key(0),
    federation.example(),
    server,
    context.client_id,
    context.spec,
    COHORT,
  )


@pytest.mark.slow
def test_without_weight_of_the_generated_it_is_fedavg(federation):
  own, _ = publics.play(publics.simulate("fedgen", federation, alpha=0.0), 3)
  fedavg, _ = publics.play(publics.simulate("fedavg", federation), 3)
  assert tiny.largest_difference(own.server.model, fedavg.server.model) < 1e-6
  taught, _ = publics.play(publics.simulate("fedgen", federation), 3)
  assert tiny.largest_difference(own.server.model, taught.server.model) > 1e-3


@pytest.fixture(scope="module")
def trained(federation):
  """The messages of two clients, and the server before and after."""
  made, model, server = make(
    federation, generator_steps=150, generator_learning_rate=3e-3
  )
  context = publics.make_context(federation)
  update = jax.jit(
    lambda client_id: made.client_update(
      made.broadcast(server, context, COHORT),
      start(made, federation, server, context),
      federation.client(client_id),
      context,
      COHORT,
    )
  )
  messages = [update(jnp.int32(i)).message for i in (0, 1)]
  aggregates = {
    COHORT: publics.heard(made, server, messages, (1.0, 1.0), context)
  }
  new = jax.jit(made.server_update)(server, aggregates, context)
  return made, model, server, context, messages, new


def test_the_generators_loss_falls_over_the_servers_steps(trained):
  _, model, server, _, messages, new = trained
  functions = generator.make_generator(8, tiny.CLASSES, 32, (64,), 200)
  sent = [divided.head_params(m.model.params) for m in messages]
  heads = jax.tree.map(
    lambda w, *d: jnp.stack([w + x for x in d]),
    divided.head_params(server.model.params),
    *sent,
  )
  counts = jnp.stack([m.counts for m in messages])
  losses = [
    generator.generator_loss(
      functions, model.head, params, heads, counts, jax.random.key(4), 1.0
    )
    for params in (server.generator, new.generator)
  ]
  assert losses[1] < 0.5 * losses[0]


def test_clients_send_the_counts_of_their_labels(trained, federation):
  messages = trained[4]
  for client, message in enumerate(messages):
    data = federation.client(jnp.int32(client))
    count = int(data.train.count)
    labels = np.asarray(data.batch(jnp.arange(count)).labels)
    expected = np.bincount(labels, minlength=tiny.CLASSES)
    np.testing.assert_array_equal(message.counts, expected)


def test_the_server_knows_the_clients_last_layers_and_counts_alone(trained):
  made, _, _, _, messages, _ = trained
  head, counts = made.collect(messages[0], None)
  assert {k: v.shape for k, v in head["last"].items()} == {
    "kernel": (8, tiny.CLASSES),
    "bias": (tiny.CLASSES,),
  }
  chex.assert_shape(counts, (tiny.CLASSES,))


def test_a_client_of_no_weight_does_not_teach_the_generator(trained):
  made, _, server, context, messages, _ = trained
  wrong = jax.tree.map(lambda x: 50 * jnp.ones_like(x), messages[1])
  update = jax.jit(made.server_update)
  ends = [
    update(
      server,
      {COHORT: publics.heard(made, server, sent, (1.0, 0.0), context)},
      context,
    )
    for sent in ((messages[0], messages[1]), (messages[0], wrong))
  ]
  nobody = {COHORT: publics.heard(made, server, messages, (0.0, 0.0), context)}
  alone = update(server, nobody, context)
  assert tiny.largest_difference(*ends) < 1e-6
  assert tiny.largest_difference(alone, server) == 0


@pytest.mark.slow
def test_generated_features_reach_the_last_layer_alone(federation):
  """A step with a known generator, against one in a first round."""
  made, _, server = make(federation, alpha=2.0)
  context = publics.make_context(federation)._replace(num_steps=jnp.int32(1))
  own = start(made, federation, server, context)
  download = made.broadcast(server, context, COHORT)

  unweighted, _, _ = make(federation, alpha=0.0)

  @functools.partial(jax.jit, static_argnums=1)
  def play(round_, method=made):
    return method.client_update(
      download,
      own,
      federation.client(jnp.int32(0)),
      context._replace(round=round_),
      COHORT,
    ).message.model.params

  first, later = play(jnp.int32(0)), play(jnp.int32(1))
  for layer in ("first", "hidden_1"):
    assert tiny.largest_difference(first[layer], later[layer]) < 1e-7
  assert tiny.largest_difference(first["last"], later["last"]) > 1e-3
  # In the first round the generator knows nothing, and is not listened to.
  plain = play(jnp.int32(0), unweighted)
  assert tiny.largest_difference(first, plain) < 1e-7


def test_a_generator_goes_down_and_counts_go_up(federation):
  simulation = publics.simulate("fedgen", federation, noise_size=3, hidden=(5,))
  fedavg = publics.simulate("fedavg", federation)
  classes = tiny.CLASSES
  generator_size = (3 + classes) * 5 + 5 + 5 * 8 + 8
  assert simulation.bytes_down == fedavg.bytes_down + 4 * generator_size
  assert simulation.bytes_up == fedavg.bytes_up + 4 * classes


@pytest.mark.slow
def test_clients_of_all_precisions_learn():
  publics.check_learns("fedgen")


@pytest.mark.slow
def test_some_clients_may_stay_away(federation):
  simulation = publics.simulate(
    "fedgen", federation, settings={"clients_per_round": 1}, generator_steps=5
  )
  state, _ = publics.play(simulation, 3)
  chex.assert_tree_all_finite(state.server)


def test_it_needs_one_architecture_with_a_last_layer(federation):
  whole = publics.make_model()._replace(features=None)
  with pytest.raises(ValueError, match="model='mlp': must have `features`"):
    publics.make_method("fedgen", federation, model=whole)
  with pytest.raises(ValueError, match="shared_model='mlp': must be the"):
    publics.make_method("fedgen", federation, shared=publics.make_model((3,)))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("alpha", -1.0, "alpha=-1.0: must be at least 0"),
    ("diversity", -1.0, "diversity=-1.0: must be at least 0"),
    ("noise_size", 0, "noise_size=0: must be at least 1"),
    ("hidden", (4, 0), "hidden=0: must be at least 1"),
    ("generator_steps", -1, "generator_steps=-1: must be at least 0"),
    ("generator_learning_rate", 0.0, "generator_learning_rate=0.0: must be p"),
    ("generator_optimizer", "x", "generator_optimizer='x': must be one of"),
    ("weighting", "x", "weighting='x': must be one of uniform, samples"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"fedgen.{message}"):
    qj.Settings(method_options={"fedgen": {option: value}})
