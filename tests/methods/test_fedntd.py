import jax
import jax.numpy as jnp
import pytest

import quped_jax as qj
from quped_jax.methods import fedntd
from tests import tiny
from tests.methods import toy


@pytest.mark.slow
def test_without_distillation_it_is_fedavg():
  own, plain = toy.run("fedntd", 2, beta=0.0), toy.run("fedavg", 2)
  end, other = own.states[-1], plain.states[-1]
  assert tiny.largest_difference(end.server, other.server.model) < 1e-6
  assert tiny.largest_difference(end.clients, other.clients) < 1e-6


def test_local_steps_are_those_of_the_paper():
  beta, temperature = 3.0, 2.0
  played = toy.play_one_client("fedntd", beta=beta, temperature=temperature)
  start = played.download.params

  def not_true(logits, labels):
    """Probabilities of the wrong classes, `[batch, classes - 1]`."""
    wrong = jnp.stack(
      [
        jnp.delete(row, label)
        for row, label in zip(logits, labels, strict=True)
      ]
    )
    return toy.hand_softmax(wrong / temperature)

  params = start
  for batch in played.batches:
    labels = [int(label) for label in batch.labels]
    taught = not_true(toy.hand_forward(start, batch.inputs), labels)

    def loss(params, batch, labels=labels, taught=taught):
      logits = toy.hand_forward(params, batch.inputs)
      divergence = toy.hand_kl(taught, not_true(logits, labels))
      term = beta * temperature**2 * divergence
      return toy.hand_labels(logits, batch.labels) + term

    params = toy.descend(params, loss, [batch])
  sent = jax.tree.map(jnp.add, start, played.result.message.params)
  assert tiny.largest_difference(sent, params) < 1e-5
  plain = toy.descend(
    start,
    lambda p, b: toy.hand_labels(toy.hand_forward(p, b.inputs), b.labels),
    played.batches,
  )
  assert tiny.largest_difference(sent, plain) > 1e-3


@pytest.mark.slow
def test_it_learns_with_quantized_clients():
  played = toy.check_learns("fedntd")
  simulation = played.made.simulation
  assert simulation.bytes_down == simulation.bytes_up
  assert fedntd.FedntdOptions() == fedntd.FedntdOptions(1.0, 1.0)


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("beta", -0.1, "fedntd.beta=-0.1: must be at least 0"),
    ("temperature", 0.0, "fedntd.temperature=0.0: must be positive"),
    ("weighting", "x", "fedntd.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedntd": {option: value}})
