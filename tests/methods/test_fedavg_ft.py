import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import methods
from quped_jax.experiment.settings import swept
from quped_jax.experiment.training import make_schedule, make_training
from quped_jax.methods import api
from quped_jax.simulation import held_out_clients
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def models_of(played, index=0, context=None, **options):
  """A client's models after the rounds, as (params, stats) by name."""
  made, end = played.made, played.states[-1]
  settings = tiny.make_settings(
    "fedavg_ft",
    3,
    bits=made.settings.bits,
    method_options={"fedavg_ft": options},
  )
  method = tiny.make_method(settings, made.model)
  context = context or toy.make_context(index, 2)

  @jax.jit
  def models(server, client, data):
    variants = method.variants(server, client, data, context, COHORT)
    return {name: variant[:2] for name, variant in variants.items()}

  return models(
    end.server,
    tiny.client(end.clients[COHORT], index),
    made.federation.client(jnp.int32(index)),
  )


@pytest.fixture(scope="module")
def played():
  """Two rounds of clients of 1, 2 and 32 bits."""
  return toy.run("fedavg_ft", 2)


def check_equal(tree, other):
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
  for own, others in pairs:
    np.testing.assert_array_equal(own, others)


def test_training_is_that_of_fedavg(played):
  check_equal(played.states[-1], toy.run("fedavg", 2).states[-1])


@pytest.mark.slow
def test_without_steps_the_personalized_model_is_the_global_one():
  normed = (("model", "normed"), ("hidden", ()))
  played = toy.run("fedavg_ft", 1, changes=normed)
  models = models_of(played, adapt_steps=0)
  server = played.states[-1].server.model
  assert server.stats
  check_equal(models["personalized"], (server.params, server.stats))
  check_equal(models["global"], (server.params, server.stats))


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 2])
def test_as_many_steps_as_a_round_has_make_its_local_model(played, index):
  """With the round's key, for clients of 1 bit and of full precision."""
  made, end = played.made, played.states[-1]
  spec, _ = made.population.of_client(jnp.int32(index))
  context = toy.make_context(index, 2, spec=spec)
  client = tiny.client(end.clients[COHORT], index)

  @jax.jit
  def local(server, client, data):
    download = made.method.broadcast(server, context, COHORT)
    return made.method.client_update(download, client, data, context, COHORT)

  result = local(end.server, client, made.federation.client(jnp.int32(index)))
  after = jax.tree.map(jnp.add, end.server.model, result.message)
  after = (after.params, after.stats)
  models = models_of(played, index, context)
  assert tiny.largest_difference(models["personalized"], after) < 1e-6
  assert tiny.largest_difference(models["global"], after) > 1e-3
  # Its quantized form is at the levels that the steps lead to.
  kernel = np.unique(models["quantized"][0]["hidden_1"]["kernel"])
  book = result.client.codebooks["hidden_1"]["kernel"]
  if index == 0:
    np.testing.assert_allclose(kernel, book.centers[:2], atol=1e-6)
    before = client.codebooks["hidden_1"]["kernel"]
    assert np.abs(kernel - np.asarray(before.centers[:2])).max() > 1e-4
  else:
    assert len(kernel) == 64


@pytest.mark.slow
def test_as_many_steps_as_its_own_round_has_where_clients_have_their_own(
  played,
):
  context = toy.make_context(0, 2)
  own = context._replace(own_steps=jnp.int32(2))
  expected = models_of(played, 0, context, adapt_steps=2)["personalized"]
  found = models_of(played, 0, own)["personalized"]
  assert tiny.largest_difference(found, expected) < 1e-6
  # But as many as are asked for.
  three = models_of(played, 0, own, adapt_steps=3)["personalized"]
  assert tiny.largest_difference(three, expected) > 1e-4


@pytest.mark.slow
def test_a_held_out_client_does_the_same_at_full_precision():
  played = toy.run("fedavg_ft", 2, bits=(32,))
  made, server = played.made, played.states[-1].server
  context = toy.make_context(1, 2)
  adaptation = held_out_clients._Adaptation(
    made.method, make_training(made.settings), make_schedule(made.settings), 3
  )
  held_out = jax.jit(
    lambda server, data: adaptation.variants(server, data, context, COHORT)[
      "personalized"
    ][:2]
  )(server, made.federation.client(jnp.int32(1)))
  models = models_of(played, 1, context, adapt_steps=3)
  assert set(models) == {"personalized", "global"}
  assert made.simulation.primary_variant == "personalized"
  check_equal(models["personalized"], held_out)


@pytest.mark.parametrize("part", ["head", "body"])
def test_only_the_chosen_part_is_adapted(played, part):
  before = played.states[-1].server.model.params
  after = models_of(played, part=part)["personalized"][0]
  for layer in before:
    moved = tiny.largest_difference(after[layer], before[layer])
    assert (moved > 1e-4) == ((layer == "last") == (part == "head")), layer


@pytest.mark.slow
def test_the_step_size_of_the_adaptation_can_be_its_own(played):
  plain = models_of(played)["personalized"]
  context = toy.make_context(0, 2)
  rates = context.rates._replace(learning_rate=jnp.float32(0.03))
  slow = models_of(played, 0, context._replace(rates=rates))["personalized"]
  same = models_of(played, adapt_learning_rate=0.03)["personalized"]
  assert tiny.largest_difference(same, slow) < 1e-6
  assert tiny.largest_difference(same, plain) > 1e-3


@pytest.mark.slow
def test_programs_take_the_step_size_of_the_adaptation_as_data():
  federation = toy.linear_federation()
  settings = tiny.make_settings(
    "fedavg_ft", 2, bits=(32,), steps=2, batch_size=2,
    method_options={"fedavg_ft": {"adapt_learning_rate": 0.05}},
  )  # fmt: skip

  def adapted(values):
    _, options = swept.with_values(settings, values)
    made = methods.get_method("fedavg_ft").build(
      api.Models(shared=toy.LINEAR, clients={COHORT: toy.LINEAR}),
      make_training(settings)._replace(loss=toy.squared_loss),
      options,
      federation,
    )
    server, clients = toy.begin(made, federation)
    data, context = federation.client(0), toy.make_context()
    models = made.variants(server, clients[0], data, context, COHORT)
    return models["personalized"][0]["w"]

  given = swept.values_of(settings)
  other = {**given, "fedavg_ft.adapt_learning_rate": 0.1}
  traced = jax.jit(adapted)
  for values in (given, other):
    np.testing.assert_allclose(traced(values), adapted(values), rtol=1e-6)
  assert tiny.largest_difference(traced(given), traced(other)) > 1e-3


@pytest.mark.slow
def test_adapted_models_are_reported_beside_the_global_one():
  played = toy.check_learns("fedavg_ft")
  assert set(played.accuracy) == {"personalized", "quantized", "global"}
  # Of training alone.
  assert played.made.simulation.gradients == 5 * 3


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("adapt_steps", -2, "fedavg_ft.adapt_steps=-2: must be at least -1"),
    ("part", "tail", "fedavg_ft.part='tail': must be one of all, head, body"),
    ("adapt_learning_rate", -1.0, "adapt_learning_rate=-1.0: must be at least"),
    ("server_learning_rate", 0.0, "fedavg_ft.server_learning_rate=0.0: must"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedavg_ft": {option: value}})


def test_a_part_needs_a_model_that_has_it():
  made = toy.linear_method("fedavg_ft", 2, part="body")
  with pytest.raises(ValueError, match=r"with fedavg_ft\.part='body'"):
    toy.begin(made, toy.linear_federation())
