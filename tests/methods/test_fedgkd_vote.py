import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api, fedgkd_vote
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


@pytest.mark.slow
def test_one_teacher_is_fedgkd_with_one():
  own = toy.run("fedgkd_vote", 2, models=1, gamma=1.0)
  other = toy.run("fedgkd", 2, models=1, gamma=1.0)
  plain = toy.run("fedavg", 2)
  ends = [played.states[-1] for played in (own, other, plain)]
  model = ends[0].server.model
  assert tiny.largest_difference(model, ends[1].server) < 1e-6
  assert tiny.largest_difference(ends[0].clients, ends[1].clients) < 1e-6
  assert tiny.largest_difference(model, ends[2].server.model) > 1e-3


@pytest.mark.slow
def test_without_distillation_it_is_fedavg():
  own = toy.run("fedgkd_vote", 2, gamma=0.0, models=2)
  plain = toy.run("fedavg", 2)
  end, other = own.states[-1], plain.states[-1]
  assert tiny.largest_difference(end.server.model, other.server.model) < 1e-6
  assert tiny.largest_difference(end.clients, other.clients) < 1e-6


def split_federation(validation):
  """Clients with 11 training samples and this many for validation."""
  rng = np.random.default_rng(0)
  total = sum(15 + count for count in validation)
  dataset = qj.from_arrays(
    rng.normal(size=(total, 6)), rng.integers(0, 4, total), num_classes=4
  )
  parts, start = [], 0
  for count in validation:
    rows = np.arange(start, start + 15 + count, dtype=np.int32)
    parts.append((rows[:11], rows[15:], rows[11:15]))
    start += 15 + count
  partition = qj.data.Partition(*map(tuple, zip(*parts, strict=True)))
  return dataset, partition, qj.make_federation(dataset, partition)


@pytest.mark.slow
@pytest.mark.parametrize("validation", [(5, 0), (0, 0), (13, 3)])
def test_losses_are_means_over_validation_or_training_samples(validation):
  dataset, partition, federation = split_federation(validation)
  model = qj.create_model("mlp", tiny.CLASSES, features=(4,))
  teachers = [
    api.GlobalModel(*model.init(jax.random.key(i), np.ones((1, 6))))
    for i in range(2)
  ]
  training = make_training(tiny.make_settings("fedgkd_vote", 2, batch_size=4))
  for client in range(2):
    losses = jax.jit(
      lambda data: fedgkd_vote.held_out_losses(training, model, teachers, data)
    )(federation.client(jnp.int32(client)))
    rows = partition.validation[client]
    if not len(rows):
      rows = partition.train[client][: max(validation) or None]
    expected = [
      toy.hand_labels(
        toy.hand_forward(teacher.params, dataset.inputs[rows]),
        dataset.labels[rows],
      )
      for teacher in teachers
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


def two_of_three(server):
  """A server that has held two models; the third must not count."""
  models = jax.tree.map(
    lambda x: jnp.stack([x[0], -x[0] + 0.1, x[0] + 7]), server.models
  )
  return server._replace(models=models, count=jnp.int32(2))


def test_local_steps_are_those_of_the_paper():
  gamma, temperature = 2.0, 0.8
  played = toy.play_one_client(
    "fedgkd_vote", two_of_three, gamma=gamma, models=3, temperature=temperature
  )
  newest, other = (
    jax.tree.map(lambda x, i=i: x[i], played.download.history.models.params)
    for i in range(2)
  )
  # Without validation samples, all 23 training samples are used.
  data = tiny.make_federation((23,)).client(jnp.int32(0))
  samples = data.batch(jnp.arange(23))
  scores = [
    np.exp(
      -toy.hand_labels(toy.hand_forward(p, samples.inputs), samples.labels)
      / temperature
    )
    for p in (newest, other)
  ]
  shares = np.array(scores) / sum(scores)
  assert 0.05 < shares.min() < 0.45

  def loss(params, batch):
    logits = toy.hand_forward(params, batch.inputs)
    total = toy.hand_labels(logits, batch.labels)
    for share, teacher in zip(shares, (newest, other), strict=True):
      taught = toy.hand_forward(teacher, batch.inputs)
      divergence = toy.hand_kl(*map(toy.hand_softmax, (taught, logits)))
      total += gamma / 2 * share * divergence
    return total

  expected = toy.descend(newest, loss, played.batches)
  sent = jax.tree.map(jnp.add, newest, played.result.message.params)
  assert tiny.largest_difference(sent, expected) < 1e-5


@pytest.mark.slow
def test_it_learns_with_quantized_clients():
  simulation = toy.check_learns("fedgkd_vote", models=3).made.simulation
  # All three models, and how many of them count.
  assert simulation.bytes_down == 3 * simulation.bytes_up + 4


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("gamma", -0.1, "fedgkd_vote.gamma=-0.1: must be at least 0"),
    ("models", 0, "fedgkd_vote.models=0: must be at least 1"),
    ("temperature", 0.0, "fedgkd_vote.temperature=0.0: must be positive"),
    ("weighting", "x", "fedgkd_vote.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedgkd_vote": {option: value}})
