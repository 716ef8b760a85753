import jax
import numpy as np
import pytest

import quped_jax as qj
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


@pytest.mark.slow
def test_without_the_term_it_is_fedavg():
  own, plain = toy.run("fedprox", 2, mu=0.0), toy.run("fedavg", 2)
  end, other = own.states[-1], plain.states[-1]
  assert tiny.largest_difference(end.server, other.server.model) < 1e-6
  assert tiny.largest_difference(end.clients, other.clients) < 1e-6
  assert tiny.largest_difference(end.server, own.states[0].server) > 1e-2


def test_local_steps_are_pulled_to_where_they_began():
  made = toy.linear_method("fedprox", 3, mu=0.7)
  federation = toy.linear_federation()
  start = np.array([1.0, -1.0], np.float32)
  server, clients = toy.begin(made, federation)
  server = server._replace(params={"w": jax.numpy.asarray(start)})
  server, _ = toy.play(made, federation, 1, (server, clients))
  ends = []
  for client in range(2):
    w = start
    for _ in range(3):
      gradient = toy.linear_gradient(client, w) + 0.7 * (w - start)
      w = w - toy.RATE * gradient
    ends.append(w)
  np.testing.assert_allclose(server.params["w"], np.mean(ends, 0), rtol=1e-5)


@pytest.mark.slow
def test_a_strong_term_keeps_clients_near():
  moves = []
  for mu in (0.0, 5.0):
    played = toy.run("fedprox", 1, bits=(32,), mu=mu)
    first, last = (state.server.params for state in played.states)
    moves.append(tiny.largest_difference(first, last))
  assert 0 < moves[1] < 0.6 * moves[0]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["ste", "parq"])
def test_a_strong_term_keeps_latent_weights_near(estimator):
  moves = []
  for mu in (0.0, 3.0):
    changes = (("estimator", estimator), ("steps", 20))
    played = toy.run("fedprox", 1, bits=(2,), mu=mu, changes=changes)
    first, last = (state.server.params for state in played.states)
    moves.append(tiny.largest_difference(first, last))
  assert 0 < moves[1] < 0.6 * moves[0]


@pytest.mark.slow
def test_it_learns_with_quantized_clients():
  played = toy.check_learns("fedprox")
  simulation = played.made.simulation
  assert simulation.bytes_down == simulation.bytes_up


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("mu", -0.1, "fedprox.mu=-0.1: must be at least 0"),
    ("mu", float("nan"), "fedprox.mu=nan: must be at least 0"),
    ("weighting", "x", "fedprox.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"fedprox": {option: value}})
