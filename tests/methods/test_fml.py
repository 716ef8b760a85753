import jax
import jax.numpy as jnp
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import trees
from tests import alone, tiny

COHORT = tiny.COHORT
RATE, TEMPERATURE = 0.1, 2.0


@pytest.mark.slow
def test_by_labels_alone_it_is_local_training_beside_fedavg():
  options = (("alpha", 1.0), ("beta", 1.0))
  same = {"bits": (32,), "shared_learning_rate": RATE}
  state = tiny.tiny("fml", options=options, **same).play(2)
  local = tiny.tiny("local", bits=(32,)).play(2).clients[COHORT]
  uniform = (("weighting", "uniform"),)
  server = tiny.tiny("fedavg", bits=(32,), options=uniform).play(2).server.model
  assert tiny.largest_difference(state.clients[COHORT], local) < 1e-6
  assert tiny.largest_difference(state.server, server) < 1e-6


def hand_step(models, alpha, beta, own, shared, batch):
  """Both learn from the other's model before the step, held constant."""
  model = models.clients[COHORT]
  taught_by = alone.logits(models.shared, shared, batch)
  teaches = alone.logits(model, own, batch)

  def own_loss(params):
    logits = alone.logits(model, params, batch)
    kl = alone.kl(taught_by, logits, TEMPERATURE)
    return alpha * alone.labels_loss(logits, batch.labels) + (1 - alpha) * kl

  def shared_loss(params):
    logits = alone.logits(models.shared, params, batch)
    kl = alone.kl(teaches, logits, TEMPERATURE)
    return beta * alone.labels_loss(logits, batch.labels) + (1 - beta) * kl

  return (
    alone.descend(own, jax.grad(own_loss)(own), RATE),
    alone.descend(shared, jax.grad(shared_loss)(shared), alone.SHARED_RATE),
  )


@pytest.mark.parametrize(
  "hidden", [pytest.param((8, 8), marks=pytest.mark.slow), (4,)]
)
def test_local_steps_are_those_of_the_paper(hidden):
  """The copy is of the same architecture, or of another."""
  made = alone.make(
    "fml",
    own=alone.mlp(8, 8),
    shared=alone.mlp(*hidden),
    alpha=0.3,
    beta=0.6,
    temperature=TEMPERATURE,
  )
  played = alone.play(made)

  def by_hand(own, shared):
    for batch in played.batches:
      own, shared = hand_step(made.models, 0.3, 0.6, own, shared, batch)
    return own, shared

  own, shared = jax.jit(by_hand)(played.start.params, played.download.params)
  assert tiny.largest_difference(played.result.client.params, own) < 1e-5
  assert tiny.largest_difference(alone.sent(played), shared) < 1e-5
  assert tiny.largest_difference(own, played.start.params) > 1e-2
  assert tiny.largest_difference(shared, played.download.params) > 1e-2


@pytest.mark.slow
def test_a_model_that_only_teaches_is_not_moved_by_its_student():
  """With alpha = 1 only labels move the own model; likewise beta = 1."""

  def play(alpha, beta):
    return alone.play(alone.make("fml", alpha=alpha, beta=beta))

  labels, own, shared = play(1.0, 1.0), play(1.0, 0.2), play(0.2, 1.0)
  kept, changed = own.result.client.params, shared.result.client.params
  reference = labels.result.client.params
  assert tiny.largest_difference(reference, kept) < 1e-7
  assert tiny.largest_difference(reference, changed) > 1e-3
  reference = alone.sent(labels)
  assert tiny.largest_difference(reference, alone.sent(shared)) < 1e-7
  assert tiny.largest_difference(reference, alone.sent(own)) > 1e-3


@pytest.mark.slow
def test_a_quantized_model_teaches_as_it_is_deployed():
  made = alone.make("fml", bits=2, steps=1, beta=0.0)
  played = alone.play(made)
  _, quantized = made.training.alternating.views(played.start)

  def taught(teacher):
    batch, shared = played.batches[0], played.download.params
    target = alone.logits(made.models.shared, teacher, batch)

    def loss(params):
      return alone.kl(target, alone.logits(made.models.shared, params, batch))

    return alone.descend(shared, jax.grad(loss)(shared), alone.SHARED_RATE)

  sent = alone.sent(played)
  by_quantized = jax.jit(taught)(quantized.params)
  by_weights = jax.jit(taught)(played.start.params)
  assert tiny.largest_difference(sent, by_quantized) < 1e-5
  assert tiny.largest_difference(sent, by_weights) > 1e-3


@pytest.mark.slow
def test_cohorts_of_two_architectures_share_a_third():
  settings = tiny.make_settings("fml", 2, bits=(2,), steps=2)
  clients = {"wide": alone.mlp(16, 8), "deep": alone.mlp(8, 8, 8)}
  models = api.Models(alone.mlp(4), clients)
  made = qj.methods.get_method("fml").build(
    models, make_training(settings), settings.options(), None
  )
  federation = tiny.make_federation((23, 40))
  context = alone.make("fml").context

  @jax.jit
  def play(key):
    example = federation.example()
    server = made.init_server(key, example)
    sums = {}
    for index, cohort in enumerate(clients):
      client_id = jnp.int32(index)
      client = made.init_client(
        key, example, server, client_id, api.ClientSpec(2), cohort
      )
      result = made.client_update(
        made.broadcast(server, context, cohort),
        client,
        federation.client(client_id),
        context._replace(client_id=client_id),
        cohort,
      )
      sums[cohort] = made.receive(
        server, result.message, result.weight, context, cohort
      )
    return server, sums, made.server_update(server, sums, context)

  before, sums, after = play(jax.random.key(0))
  wide, deep = (sums[name].total for name in clients)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, wide, deep)
  moved = trees.difference(after, before)
  assert tiny.largest_difference(moved, mean) < 1e-6
  assert tiny.largest_difference(wide, deep) > 1e-3


def test_gradients_are_those_of_both_models():
  for bits, expected in ((2, 4 * (3 + 1)), (32, 4 * 2)):
    assert alone.make("fml", bits=bits, steps=4).method.gradients == expected


@pytest.mark.slow
def test_clients_of_any_precision_learn():
  alone.check_learning("fml", rounds=20)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"alpha": 1.5}, "fml.alpha=1.5: must be from 0 to 1"),
    ({"beta": -0.5}, "fml.beta=-0.5: must be from 0 to 1"),
    ({"temperature": 0.0}, "fml.temperature=0.0: must be positive"),
    ({"weighting": "x"}, "fml.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(options, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fml": options})
