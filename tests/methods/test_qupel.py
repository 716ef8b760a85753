import jax
import jax.numpy as jnp
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import test_quped as paper

COHORT = tiny.COHORT
LAMBDA = 0.6


def hand_step(x, c, w, batch):
  """One local step of QuPeL, from the functions by hand in QuPeD's test."""
  inputs, labels = batch[:2]

  def quantized(x, c):
    kernel = paper.hand_soft(x["hidden_1"]["kernel"], c)
    return paper.with_hidden(x, kernel)

  def loss(params):
    return paper.hand_labels(paper.hand_forward(params, inputs), labels)

  def tied(x, c):
    q = quantized(x, c)
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), q, w)
    return loss(q) + LAMBDA / 2 * sum(jax.tree.leaves(squares))

  grads = jax.grad(lambda x: loss(x) + tied(x, c))(x)
  y = paper.descend(x, grads, paper.LEARNING_RATE)
  x = paper.prox_l2(y, c, paper.LEARNING_RATE * paper.STRENGTH)
  mu = c - paper.CENTERS_RATE * jax.grad(tied, argnums=1)(x, c)
  t = paper.CENTERS_RATE * paper.STRENGTH
  c = paper.prox_centers_l2(mu, c, x["hidden_1"]["kernel"], t)
  difference = jax.tree.map(jnp.subtract, w, quantized(x, c))
  return x, c, paper.descend(w, difference, paper.SHARED_RATE * LAMBDA)


def hand_qupel(x, c, w, batches):
  for batch in batches:
    x, c, w = hand_step(x, c, w, batch)
  return x, c, w


def test_local_steps_are_those_of_the_paper():
  start, download, result, batches = paper.play_one_client(
    *paper.one_client("qupel", lambda_p=LAMBDA)
  )
  old = start.codebooks["hidden_1"]["kernel"].centers
  x, c, w = jax.jit(hand_qupel)(start.params, old, download.params, batches)
  new = result.client
  centers = new.codebooks["hidden_1"]["kernel"].centers
  sent = jax.tree.map(jnp.add, download.params, result.message.params)
  assert tiny.largest_difference(new.params, x) < 1e-5
  assert tiny.largest_difference(centers, c) < 1e-5
  assert tiny.largest_difference(sent, w) < 1e-5
  assert tiny.largest_difference(new.params, start.params) > 1e-2
  assert tiny.largest_difference(centers, old) > 1e-3
  assert tiny.largest_difference(sent, download.params) > 1e-2


@pytest.mark.slow
def test_without_the_penalty_it_is_local_training():
  own = tiny.tiny("qupel", options=(("lambda_p", 0.0),)).play(1)
  local = tiny.tiny("local").play(1).clients[COHORT]
  assert tiny.largest_difference(own.clients[COHORT], local) < 1e-6
  assert (
    tiny.largest_difference(own.server, tiny.tiny("qupel").state().server) == 0
  )


def test_wrong_options_are_errors():
  with pytest.raises(
    ValueError, match="qupel.lambda_p=-1.0: must be at least 0"
  ):
    qj.Settings(method_options={"qupel": {"lambda_p": -1}})
  with pytest.raises(ValueError, match="qupel.weighting='x': must be one of"):
    qj.Settings(method_options={"qupel": {"weighting": "x"}})
