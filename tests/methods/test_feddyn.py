import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.methods import api
from tests import tiny
from tests.methods import toy

COHORT = toy.COHORT


def w_of(server):
  return np.asarray(server.model.params["w"])


def hand_rounds(rounds, steps, alpha, rate=toy.RATE):
  """The paper's algorithm with gradient steps, both clients in every round."""
  w, own = np.zeros(2), [np.zeros(2), np.zeros(2)]
  for _ in range(rounds):
    ends = []
    for i in range(2):
      y = w
      for _ in range(steps):
        tilt = alpha * own[i] + alpha * (y - w)
        y = y - rate * (toy.linear_gradient(i, y) + tilt)
      own[i] = own[i] + y - w
      ends.append(y)
    w = np.mean(ends, axis=0) + np.mean(own, axis=0)
  return w, own


def test_rounds_are_those_of_the_paper():
  made = toy.linear_method("feddyn", 7, alpha=0.5)
  server, clients = toy.play(made, toy.linear_federation(), 3)
  w, own = hand_rounds(3, 7, 0.5)
  np.testing.assert_allclose(w_of(server), w, rtol=1e-4)
  np.testing.assert_allclose(
    server.moves["w"], np.mean(own, axis=0), rtol=1e-4, atol=1e-6
  )
  for client, moves in zip(clients, own, strict=True):
    np.testing.assert_allclose(client.moves["w"], moves, rtol=1e-4)


def test_the_first_round_is_twice_the_move_of_fedprox():
  federation, ends = toy.linear_federation(), {}
  for name, options in (
    ("feddyn", {"alpha": 0.7}),
    ("fedprox", {"mu": 0.7, "weighting": "uniform"}),
  ):
    made = toy.linear_method(name, 5, **options)
    ends[name], _ = toy.play(made, federation, 1)
  np.testing.assert_allclose(
    w_of(ends["feddyn"]), 2 * ends["fedprox"].params["w"], rtol=1e-5
  )


def test_at_exact_minima_the_moves_are_gradients():
  """Of the clients' own losses, minus and divided by alpha."""
  made = toy.linear_method("feddyn", 2000, alpha=0.5)
  federation = toy.linear_federation()
  before, clients = toy.play(made, federation, 1)
  _, after = toy.play(made, federation, 1, (before, clients))
  for i in range(2):
    moved = after[i].moves["w"] - clients[i].moves["w"]
    end = w_of(before) + moved
    expected = -toy.linear_gradient(i, end) / 0.5
    np.testing.assert_allclose(after[i].moves["w"], expected, atol=1e-4)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("partial", [False, True])
def test_it_removes_the_bias_of_clients_that_drift(partial):
  """The same rounds take FedAvg to a point that is not the optimum."""
  distances = {}
  for name, options in (("feddyn", {"alpha": 1.0}), ("fedavg", {})):
    made = toy.linear_method(name, 10, **options)
    server, _ = alternate(made, 300) if partial else play(made, 150)
    apart = np.asarray(server.model.params["w"]) - toy.linear_optimum()
    distances[name] = np.abs(apart).max()
  assert distances["feddyn"] < 1e-3
  assert distances["fedavg"] > 0.1


def play(made, rounds):
  return toy.play(made, toy.linear_federation(), rounds)


def alternate(made, rounds):
  """Rounds in each of which one client takes part, the two in turn."""
  federation = toy.linear_federation()

  @jax.jit
  def play_round(server, client, i):
    context = toy.make_context(i, 0)
    result = made.client_update(
      made.broadcast(server, context, COHORT),
      client,
      federation.client(i),
      context,
      COHORT,
    )
    heard = made.receive(server, result.message, result.weight, None, COHORT)
    new = made.server_update(server, {COHORT: heard}, toy.at_server())
    return new, result.client

  server, clients = toy.begin(made, federation)
  for round_ in range(rounds):
    i = round_ % 2
    server, clients[i] = play_round(server, clients[i], jnp.int32(i))
  return server, clients


def test_the_mean_of_all_moves_is_the_servers_though_some_are_absent():
  server, clients = alternate(toy.linear_method("feddyn", 5), 3)
  mean = np.mean([client.moves["w"] for client in clients], axis=0)
  np.testing.assert_allclose(server.moves["w"], mean, rtol=1e-5)
  assert np.abs(mean).max() > 1e-2


@pytest.mark.slow
def test_the_engine_keeps_the_mean_of_all_moves():
  """With quantized clients, of which only some take part."""
  played = toy.run("feddyn", 3, changes=(("clients_per_round", 2),))
  for state in played.states[1:]:
    moves = state.clients[COHORT].moves
    mean = jax.tree.map(lambda x: x.mean(axis=0), moves)
    assert tiny.largest_difference(mean, state.server.moves) < 1e-5
    assert toy.norm(mean) > 1e-2
  simulation = played.made.simulation
  size = sum(x.nbytes for x in jax.tree.leaves(played.states[0].server.model))
  assert simulation.bytes_down == simulation.bytes_up == size


def test_everyone_counts_once():
  """Whatever weight it claims, the server's sum is that of the clients."""
  made = toy.linear_method("feddyn", 1)
  server, _ = toy.begin(made, toy.linear_federation())
  sums = [
    made.receive(
      server, server.model._replace(params={"w": move}), weight, None, COHORT
    )
    for move, weight in ((jnp.array([1.0, 2.0]), 2.0), (jnp.ones(2), 0.5))
  ]
  heard = jax.tree.map(lambda *x: sum(x), *sums)
  new = made.server_update(server, {COHORT: heard}, toy.at_server())
  np.testing.assert_allclose(new.moves["w"], [1.0, 1.5])
  np.testing.assert_allclose(w_of(new), [2.0, 3.0])


def test_a_server_that_hears_nobody_stays_as_it_is():
  made = toy.linear_method("feddyn", 1)
  server, _ = toy.begin(made, toy.linear_federation())
  server = jax.tree.map(lambda x: x + 1, server)
  nothing = jax.tree.map(jnp.zeros_like, server.model)
  heard = api.Aggregate(nothing, jnp.float32(0))
  new = made.server_update(server, {COHORT: heard}, toy.at_server())
  assert tiny.largest_difference(new, server) == 0


@pytest.mark.slow
def test_quantized_clients_pull_their_weights_alone():
  """The regularizer counts once, at x, though the loss counts at both views."""
  settings = tiny.make_settings(
    "feddyn", 1, bits=(2,), steps=1, strength=0.0,
    method_options={"feddyn": {"alpha": 0.5}},
  )  # fmt: skip
  model = qj.create_model("mlp", tiny.CLASSES, features=(4, 4))
  federation = tiny.make_federation((23,))
  made = tiny.make_method(settings, model, federation)
  context = toy.make_context(spec=api.ClientSpec(jnp.int32(2)))
  server, _ = toy.begin(made, federation)
  client = made.init_client(
    jax.random.key(0),
    federation.example(),
    server,
    context.client_id,
    context.spec,
    COHORT,
  )
  context = context._replace(
    rates=context.rates._replace(strength=jnp.float32(0))
  )
  update = jax.jit(
    lambda client: made.client_update(
      made.broadcast(server, context, COHORT),
      client,
      federation.client(jnp.int32(0)),
      context,
      COHORT,
    )
  )
  ones = jax.tree.map(jnp.ones_like, client.moves)
  plain, pulled = update(client), update(client._replace(moves=ones))
  # One step from w, of which the pull is alpha times h.
  expected = jax.tree.map(lambda d: d - toy.RATE * 0.5, plain.message.params)
  assert tiny.largest_difference(pulled.message.params, expected) < 1e-6
  # Levels have moved beside the moves.
  assert tiny.largest_difference(plain.client.levels, client.levels) > 1e-5


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_wrong_options_are_errors(value):
  message = f"feddyn.alpha={value}: must be positive"
  with pytest.raises(ValueError, match=message):
    qj.Settings(method_options={"feddyn": {"alpha": value}})
