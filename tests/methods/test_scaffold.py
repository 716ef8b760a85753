import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT
STEPS = 10


@pytest.mark.slow
def test_the_first_round_is_that_of_fedavg():
  """All controls are zero."""
  own = toy.run("scaffold", 2)
  plain = toy.run("fedavg", 2, weighting="uniform")
  first = own.states[1].server.model
  assert tiny.largest_difference(first, plain.states[1].server.model) < 1e-6
  second = own.states[2].server.model
  assert tiny.largest_difference(second, plain.states[2].server.model) > 1e-3


@pytest.mark.slow
def test_the_mean_of_the_controls_is_the_servers():
  for state in toy.run("scaffold", 3).states[1:]:
    controls = state.clients[COHORT].control
    mean = jax.tree.map(lambda x: x.mean(axis=0), controls)
    assert tiny.largest_difference(mean, state.server.control) < 1e-5
    size = jax.tree.map(np.zeros_like, mean)
    assert tiny.largest_difference(mean, size) > 1e-2


def hand_rounds(rounds, steps, rate=toy.RATE):
  """The paper's algorithm, option II, both clients in every round."""
  w, c, own = np.zeros(2), np.zeros(2), [np.zeros(2), np.zeros(2)]
  for _ in range(rounds):
    ends, changes = [], []
    for i in range(2):
      y = w
      for _ in range(steps):
        y = y - rate * (toy.linear_gradient(i, y) - own[i] + c)
      new = own[i] - c + (w - y) / (steps * rate)
      changes.append(new - own[i])
      ends.append(y)
      own[i] = new
    w = w + 0.5 * (np.mean(ends, axis=0) - w)
    c = c + sum(changes) / 2
  return w, c, own


def test_rounds_are_those_of_the_paper():
  made = toy.linear_method("scaffold", STEPS, server_learning_rate=0.5)
  server, clients = toy.play(made, toy.linear_federation(), 2)
  w, c, own = hand_rounds(2, STEPS)
  np.testing.assert_allclose(server.model.params["w"], w, rtol=1e-4)
  np.testing.assert_allclose(server.control["w"], c, rtol=1e-4, atol=1e-6)
  for client, control in zip(clients, own, strict=True):
    np.testing.assert_allclose(client.control["w"], control, rtol=1e-4)


def test_it_removes_the_bias_of_clients_that_drift():
  """The same rounds take FedAvg to a point that is not the optimum."""
  distances = {}
  for name in ("scaffold", "fedavg"):
    made = toy.linear_method(name, STEPS)
    server, _ = toy.play(made, toy.linear_federation(), 150)
    w = np.asarray(server.model.params["w"])
    distances[name] = np.abs(w - toy.linear_optimum()).max()
  assert distances["scaffold"] < 1e-3
  assert distances["fedavg"] > 0.1


def with_optimizer(steps, **changes):
  """SCAFFOLD on the linear models, with another optimizer at clients."""
  settings = tiny.make_settings(
    "scaffold", 2, bits=(32,), steps=steps, batch_size=2, **changes
  )
  return qj.methods.get_method("scaffold").build(
    api.Models(shared=toy.LINEAR, clients={COHORT: toy.LINEAR}),
    make_training(settings)._replace(loss=toy.squared_loss),
    settings.options(),
    toy.linear_federation(),
  )


MOMENTUM = {"optimizer": "momentum", "momentum": 0.8}


def test_a_single_step_has_no_momentum_yet():
  ends = [
    toy.play(with_optimizer(1, **changes), toy.linear_federation(), 3)
    for changes in ({}, MOMENTUM)
  ]
  assert tiny.largest_difference(*ends) == 0


@pytest.mark.parametrize("num_steps", [None, 3])
def test_with_momentum_and_decay_controls_are_means_of_gradients(num_steps):
  """Each gradient weighs as much as it moved the client."""
  beta, decay, taken = 0.8, 0.1, num_steps or STEPS
  made = with_optimizer(STEPS, weight_decay=decay, **MOMENTUM)
  changes = {} if num_steps is None else {"num_steps": jnp.int32(num_steps)}
  start = toy.play(made, toy.linear_federation(), 1, **changes)
  end = toy.play(made, toy.linear_federation(), 1, start, **changes)
  w, c = (np.asarray(x["w"]) for x in (start[0].model.params, start[0].control))
  weights = np.cumsum(beta ** np.arange(taken))[::-1]
  for i in range(2):
    y, velocity, gradients = w, 0, []
    for _ in range(taken):
      gradients.append(toy.linear_gradient(i, y) + decay * y)
      own = np.asarray(start[1][i].control["w"])
      velocity = beta * velocity + gradients[-1] - own + c
      y = y - toy.RATE * velocity
    mean = np.average(gradients, axis=0, weights=weights)
    control = end[1][i].control["w"]
    np.testing.assert_allclose(control, mean, rtol=1e-3, atol=1e-4)


def test_with_momentum_and_decay_drift_has_no_bias_either():
  """The optimum is that of the mean loss with its penalty."""
  decay = 0.1
  X, y = (np.concatenate(x) for x in (toy.INPUTS, toy.TARGETS))
  optimum = np.linalg.solve(
    X.T @ X / len(y) + decay * np.eye(2), X.T @ y / len(y)
  )
  changes = {"optimizer": "momentum", "momentum": 0.5, "weight_decay": decay}
  made = with_optimizer(STEPS, **changes)
  server, _ = toy.play(made, toy.linear_federation(), 150)
  distances = np.abs(np.asarray(server.model.params["w"]) - optimum)
  assert distances.max() < 1e-3
  assert np.abs(optimum - toy.linear_optimum()).max() > 0.05


def test_a_straggler_counts_the_steps_that_it_took():
  made = toy.linear_method("scaffold", STEPS)
  federation = toy.linear_federation()
  _, clients = toy.play(made, federation, 1, num_steps=jnp.int32(3))
  for client, control in zip(clients, hand_rounds(1, 3)[2], strict=True):
    np.testing.assert_allclose(client.control["w"], control, rtol=1e-4)
  # Steps beyond those of a round do not count.
  _, clients = toy.play(made, federation, 1, num_steps=jnp.int32(99))
  for client, control in zip(clients, hand_rounds(1, STEPS)[2], strict=True):
    np.testing.assert_allclose(client.control["w"], control, rtol=1e-4)


@pytest.mark.parametrize("how", ["num_steps", "rates"])
def test_without_a_step_controls_stay(how):
  value = {
    "num_steps": jnp.int32(0),
    "rates": qj.Rates(jnp.float32(0), jnp.float32(0), jnp.float32(0)),
  }[how]
  made = toy.linear_method("scaffold", STEPS)
  start = toy.play(made, toy.linear_federation(), 1)
  end = toy.play(made, toy.linear_federation(), 1, start, **{how: value})
  assert tiny.largest_difference(start, end) < 1e-6


def aggregate(made, server, values, weights):
  sums = [
    made.receive(
      server,
      jax.tree.map(lambda x, v=v: jnp.full_like(x, v), server),
      weight,
      None,
      COHORT,
    )
    for v, weight in zip(values, weights, strict=True)
  ]
  return {COHORT: jax.tree.map(lambda *x: sum(x), *sums)}


def test_the_server_counts_all_clients_for_its_control():
  """Weights apply only to the models; absent clients send no change of c."""
  made = toy.linear_method("scaffold", 1, weighting="samples")
  server, _ = toy.begin(made, toy.linear_federation())
  new = made.server_update(
    server, aggregate(made, server, (1.0, 5.0), (3.0, 1.0)), toy.at_server()
  )
  np.testing.assert_allclose(new.model.params["w"], [2.0, 2.0])
  np.testing.assert_allclose(new.control["w"], [3.0, 3.0])
  new = made.server_update(
    server, aggregate(made, server, (1.0,), (3.0,)), toy.at_server()
  )
  np.testing.assert_allclose(new.model.params["w"], [1.0, 1.0])
  np.testing.assert_allclose(new.control["w"], [0.5, 0.5])


def test_a_server_that_hears_nobody_stays_as_it_is():
  made = toy.linear_method("scaffold", 1)
  server, _ = toy.begin(made, toy.linear_federation())
  server = jax.tree.map(lambda x: x + 1, server)
  new = made.server_update(
    server, aggregate(made, server, (7.0,), (0.0,)), toy.at_server()
  )
  assert tiny.largest_difference(new, server) == 0


@pytest.mark.slow
def test_it_learns_with_quantized_clients():
  played = toy.check_learns("scaffold")
  simulation = played.made.simulation
  size = sum(x.nbytes for x in jax.tree.leaves(played.states[0].server.model))
  assert simulation.bytes_down == simulation.bytes_up == 2 * size


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_clients_weigh_as_told(weighting):
  made = toy.linear_method("scaffold", 1, weighting=weighting)
  federation = toy.linear_federation()
  server, clients = toy.begin(made, federation)
  result = made.client_update(
    made.broadcast(server, tiny.about(0), COHORT),
    clients[0],
    federation.client(jnp.int32(0)),
    toy.make_context(),
    COHORT,
  )
  assert result.weight == (1 if weighting == "uniform" else 2)


@pytest.mark.parametrize(
  "changes",
  [{"optimizer": "adam"}, {"optimizer": "adamw"}, {"weight_clip": 1.0}],
)
def test_controls_are_of_steps_that_are_sums_of_gradients(changes):
  settings = tiny.make_settings("scaffold", 3, **changes)
  with pytest.raises(ValueError, match="must be 'sgd' or 'momentum', with"):
    qj.build(settings, federation=tiny.make_federation(tiny.COUNTS[:3]))


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("server_learning_rate", 0.0, "rate=0.0: must be positive"),
    ("weighting", "x", "scaffold.weighting='x': must be one of uniform"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"scaffold": {option: value}})
