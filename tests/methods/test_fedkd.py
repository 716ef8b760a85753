import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from tests import alone, tiny

COHORT = tiny.COHORT
RATE = 0.1


def hand_step(models, mentor, mentee, batch):
  """Each model has its own loss; the other and the divisor are constant."""
  labels = batch.labels
  old_mentor = alone.logits(models.clients[COHORT], mentor, batch)
  old_mentee = alone.logits(models.shared, mentee, batch)
  divisor = alone.labels_loss(old_mentor, labels) + alone.labels_loss(
    old_mentee, labels
  )

  def mentor_loss(params):
    logits = alone.logits(models.clients[COHORT], params, batch)
    taught = alone.kl(old_mentee, logits) / divisor
    return alone.labels_loss(logits, labels) + taught

  def mentee_loss(params):
    logits = alone.logits(models.shared, params, batch)
    taught = alone.kl(old_mentor, logits) / divisor
    return alone.labels_loss(logits, labels) + taught

  return (
    alone.descend(mentor, jax.grad(mentor_loss)(mentor), RATE),
    alone.descend(mentee, jax.grad(mentee_loss)(mentee), alone.SHARED_RATE),
  )


def test_local_steps_are_those_of_the_paper():
  made = alone.make("fedkd", own=alone.mlp(8, 8), shared=alone.mlp(3))
  played = alone.play(made)

  def by_hand(mentor, mentee):
    for batch in played.batches:
      mentor, mentee = hand_step(made.models, mentor, mentee, batch)
    return mentor, mentee

  mentor, mentee = jax.jit(by_hand)(played.start.params, played.download.params)
  assert tiny.largest_difference(played.result.client.params, mentor) < 1e-5
  assert tiny.largest_difference(alone.sent(played), mentee) < 1e-5
  assert tiny.largest_difference(mentor, played.start.params) > 1e-2
  assert tiny.largest_difference(mentee, played.download.params) > 1e-2


@pytest.mark.slow
def test_a_quantized_mentor_teaches_as_it_is_deployed():
  made = alone.make(
    "fedkd", bits=1, steps=1, own=alone.mlp(8, 8), shared=alone.mlp(3)
  )
  played = alone.play(made)
  _, quantized = made.training.alternating.views(played.start)

  def mentee_of(mentor):
    step = hand_step(
      made.models, mentor, played.download.params, played.batches[0]
    )
    return step[1]

  sent = alone.sent(played)
  by_quantized = jax.jit(mentee_of)(quantized.params)
  by_weights = jax.jit(mentee_of)(played.start.params)
  assert tiny.largest_difference(sent, by_quantized) < 1e-5
  assert tiny.largest_difference(sent, by_weights) > 1e-3


@pytest.mark.slow
def test_two_that_agree_teach_each_other_nothing():
  """The same model twice, for one step: local training, and FedAvg."""
  made = alone.make("fedkd", steps=1)
  client, download = alone.start(made, seed=1), made.init(jax.random.key(1))[1]
  assert tiny.largest_difference(client.params, download.params) == 0
  own = alone.play(made, client, download).result.client
  local = alone.play(alone.make("local", steps=1), client, ()).result.client
  assert tiny.largest_difference(own.params, local.params) < 1e-6
  other = alone.play(made, client).result.client
  assert tiny.largest_difference(own.params, other.params) > 1e-3


@pytest.mark.slow
def test_only_the_small_mentee_travels():
  settings = tiny.make_settings(
    "fedkd", 2, bits=(2, 32), shared_model="mlp", shared_hidden=(3,)
  )
  simulation = tiny.assemble(settings).simulation
  # 6 -> 3 -> 4, with biases.
  size = 4 * ((6 * 3 + 3) + (3 * 4 + 4))
  assert simulation.bytes_up == simulation.bytes_down == size
  assert simulation.gradients == settings.steps * (3 + 1)


def test_losses_of_zero_divide_nothing_by_zero():
  """Both models give every sample's label the probability 1."""

  def init(key, inputs):
    return {"scale": jnp.float32(1e4)}, {}

  def apply(params, stats, inputs, train):
    return params["scale"] * inputs, stats

  sure = qj.Model("sure", init, apply, lambda path: False)
  made = alone.make("fedkd", shared=sure)
  labels = np.arange(40) % tiny.CLASSES
  rows = np.arange(40, dtype=np.int32)
  dataset = qj.from_arrays(np.eye(tiny.CLASSES)[labels], labels)
  parts = qj.data.Partition((rows[:20],), (rows[:0],), (rows[20:],))
  data = qj.make_federation(dataset, parts).client(jnp.int32(0))
  _, download, client = made.init(jax.random.key(0))
  result = made.method.client_update(
    download, client, data, made.context, COHORT
  )
  np.testing.assert_array_equal(result.message.params["scale"], 0)
  np.testing.assert_array_equal(result.client.params["scale"], 1e4)


@pytest.mark.slow
def test_clients_weigh_by_their_samples_or_equally():
  for weighting, expected in (("samples", alone.COUNT), ("uniform", 1.0)):
    made = alone.make("fedkd", shared=alone.linear(), weighting=weighting)
    assert alone.play(made).result.weight == expected


@pytest.mark.slow
def test_clients_of_any_precision_learn():
  alone.check_learning("fedkd")


def test_wrong_options_are_errors():
  with pytest.raises(ValueError, match="fedkd.weighting='x': must be one of"):
    qj.Settings(method_options={"fedkd": {"weighting": "x"}})
