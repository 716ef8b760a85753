import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import fedgkd
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


@pytest.mark.slow
@pytest.mark.parametrize("models", [1, 3])
def test_without_distillation_it_is_fedavg(models):
  own = toy.run("fedgkd", 2, gamma=0.0, models=models)
  plain = toy.run("fedavg", 2)
  end, other = own.states[-1], plain.states[-1]
  model = end.server.model if models > 1 else end.server
  assert tiny.largest_difference(model, other.server.model) < 1e-6
  assert tiny.largest_difference(end.clients, other.clients) < 1e-6


@pytest.mark.slow
def test_the_teacher_is_the_mean_of_the_last_models():
  played = toy.run("fedgkd", 4, bits=(32,), models=3)
  past = []
  for state in played.states:
    past.append(state.server.model)
    download = played.made.method.broadcast(state.server, tiny.about(0), COHORT)
    assert tiny.largest_difference(download.model, past[-1]) == 0
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *past[-3:])
    assert tiny.largest_difference(download.teacher, mean) < 1e-6
  assert tiny.largest_difference(past[-1], past[-2]) > 1e-2


@pytest.mark.slow
def test_the_teacher_of_one_model_is_what_was_received():
  played = toy.play_one_client("fedgkd", models=1)
  assert type(played.download).__name__ == "GlobalModel"
  sizes = {}
  for models in (1, 3):
    simulation = toy.run("fedgkd", 2, gamma=0.0, models=models).made.simulation
    sizes[models] = simulation.bytes_down / simulation.bytes_up
  # However many models, they travel as one mean.
  assert sizes == {1: 1, 3: 2}


def shifted(server):
  """A server whose teacher differs from its model."""
  models = jax.tree.map(lambda x: jnp.stack([x[0], -x[0] + 0.1]), server.models)
  return server._replace(models=models, count=jnp.int32(2))


@pytest.mark.parametrize("models", [1, 2])
def test_local_steps_are_those_of_the_paper(models):
  gamma = 0.8
  played = toy.play_one_client(
    "fedgkd", shifted if models > 1 else None, gamma=gamma, models=models
  )
  download = played.download
  start = download.model if models > 1 else download
  teacher = download.teacher if models > 1 else download

  def loss(params, batch):
    logits = toy.hand_forward(params, batch.inputs)
    taught = toy.hand_forward(teacher.params, batch.inputs)
    divergence = toy.hand_kl(*map(toy.hand_softmax, (taught, logits)))
    return toy.hand_labels(logits, batch.labels) + gamma / 2 * divergence

  expected = toy.descend(start.params, loss, played.batches)
  sent = jax.tree.map(jnp.add, start.params, played.result.message.params)
  assert tiny.largest_difference(sent, expected) < 1e-5
  plain = toy.descend(
    start.params,
    lambda p, b: toy.hand_labels(toy.hand_forward(p, b.inputs), b.labels),
    played.batches,
  )
  assert tiny.largest_difference(sent, plain) > 1e-3


@pytest.mark.slow
def test_it_learns_with_quantized_clients():
  toy.check_learns("fedgkd")
  assert fedgkd.FedgkdOptions().models == 5


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("gamma", -0.1, "fedgkd.gamma=-0.1: must be at least 0"),
    ("models", 0, "fedgkd.models=0: must be at least 1"),
    ("weighting", "x", "fedgkd.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedgkd": {option: value}})
