"""Averages other than the mean, also of clients that send something false."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from quped_jax.methods import api
from quped_jax.methods.wrappers import distances, robust
from tests import tiny
from tests.methods import toy
from tests.methods.wrappers.slots import COHORT, by_hand, hear, messages


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {"aggregation": "norm_clipped_mean"},
    {"dp_clip": 1.0, "dp_noise": 1.0, "participation": (0.5,)},
  ],
)
def test_so_do_settings_before_anything_is_compiled(changes):
  field = next(iter(changes))
  settings = tiny.make_settings(
    "scaffold", 5, method_options={"scaffold": {}}, **changes
  )
  with pytest.raises(ValueError, match=f"^{field}=.* must be .*'scaffold'"):
    qj.build(settings, federation=tiny.make_federation())


def test_a_server_that_reads_messages_in_its_own_way_is_left_alone():
  method = tiny.method_of("fedavg")
  other = method.replace(receive=lambda *args: api.weighted_sum(*args))
  with pytest.raises(ValueError, match="must be 'mean'"):
    robust.check_averages(other, "mine", "aggregation='median'", "'mean'")


def test_the_mean_is_the_method_itself():
  method = tiny.method_of("fedavg")
  assert robust.with_aggregation(method, "mean") is method
  settings = tiny.make_settings("fedavg", 5)
  made = assemble(settings, federation=tiny.make_federation()).method
  assert made.receive is api.weighted_sum and made.collect is None
  assert made.server_update.__module__ == "quped_jax.methods.fedavg"
  assert made.client_update.__module__ == "quped_jax.methods.blocks.averaging"


def played(changes, method="fedavg", **how):
  """The state before and after a round, and the method without a wrapper."""
  settings = tiny.make_settings(method, 5, bits=(32,), **changes, **how)
  made = tiny.assemble(settings)
  state = made.simulation.init(0)
  start = tiny.to_host(state)
  end = tiny.to_host(made.simulation.run_round(state)[0])
  return made, start, end


def sent_in_first_round(made, start):
  """What each client sends in the first round: (messages, weights, who)."""
  state = tiny.from_host(start)

  @jax.jit
  def of_client(client_id, client):
    spec, rates = made.population.of_client(client_id)
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), client_id)
    context = api.Context(
      round=jnp.int32(0),
      key=key,
      client_id=client_id,
      spec=spec,
      # At strength times (round + 1), as by default.
      rates=rates,
      shared_learning_rate=made.population.shared_learning_rate,
    )
    result = made.method.client_update(
      made.method.broadcast(state.server, context, COHORT),
      client,
      made.federation.client(client_id),
      context,
      COHORT,
    )
    return result.message, jnp.float32(result.weight)

  clients = start.clients[COHORT]
  results = [of_client(jnp.int32(i), tiny.client(clients, i)) for i in range(5)]
  present = made.population.participation.present(state.key, 0, 5)
  together = jax.tree.map(lambda *x: np.stack(x), *[m for m, _ in results])
  return together, np.array([w for _, w in results]), np.asarray(present)


def moved(start, end):
  return jax.tree.map(np.subtract, end.server.model, start.server.model)


@pytest.mark.slow
def test_a_round_adds_the_median_of_those_who_were_there():
  made, start, end = played({"aggregation": "median", "clients_per_round": 4})
  given, _, present = sent_in_first_round(made, start)
  assert present.sum() == 4
  expected = jax.tree.map(lambda x: by_hand(x[present], None), given)
  assert tiny.largest_difference(moved(start, end), expected) < 1e-5
  assert tiny.largest_difference(expected, moved(start, start)) > 1e-2


@pytest.mark.slow
def test_a_round_adds_the_messages_that_krum_chooses():
  made, start, end = played({"aggregation": "krum"})
  given, _, _ = sent_in_first_round(made, start)
  expected = distances.multi_krum(given, jnp.ones(5, bool), 1, 1)
  assert tiny.largest_difference(moved(start, end), expected) < 1e-6


@pytest.mark.slow
def test_a_round_adds_the_trimmed_mean_over_two_devices():
  changes = {"aggregation": "trimmed_mean", "trim": 0.2, "dropout": 0.1}
  made, start, end = played(changes, devices=2, chunk_size=2)
  assert made.simulation.layout.devices == 2
  start, end = (tiny.in_slots(state, 5) for state in (start, end))
  given, _, present = sent_in_first_round(made, start)
  expected = jax.tree.map(lambda x: by_hand(x[present], 0.2), given)
  assert tiny.largest_difference(moved(start, end), expected) < 1e-5


@pytest.mark.slow
def test_a_round_adds_the_weighted_mean_of_clipped_messages():
  changes = {"aggregation": "norm_clipped_mean", "clip_norm": 0.5}
  made, start, end = played(changes)
  given, weights, _ = sent_in_first_round(made, start)
  lengths = np.array([toy.norm(tiny.client(given, i)) for i in range(5)])
  assert lengths.max() > 0.6
  scale = weights * 0.5 / np.maximum(lengths, 0.5) / weights.sum()
  expected = jax.tree.map(lambda x: np.tensordot(scale, x, 1), given)
  assert tiny.largest_difference(moved(start, end), expected) < 1e-5


def mean_taker() -> api.FederatedMethod:
  """A method whose server adds the mean to its model."""
  method = tiny.method_of("quped")
  assert method.averages
  return method


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["median", pytest.param("trimmed_mean", marks=pytest.mark.long)]
)
def test_messages_of_all_cohorts_are_ranked_together(name):
  method = robust.with_aggregation(mean_taker(), name, trim=0.25)
  first, second = messages(3, seed=1), messages(4, seed=2)
  everyone = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
  sent = np.array([True, False, True, True, True, True, False])
  server = jax.tree.map(lambda x: 10 * x[0], messages(1, seed=3))
  new = method.server_update(
    server,
    {"a": hear(first, sent[:3], 3), "b": hear(second, sent[3:], 4)},
    toy.at_server(),
  )
  trim = None if name == "median" else 0.25
  expected = jax.tree.map(
    lambda s, x: s + by_hand(x[sent], trim), server, everyone
  )
  assert tiny.largest_difference(new, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["median", "multi_krum", "bulyan"])
@pytest.mark.parametrize("method", ["fedavg", "quped", "fedgkd"])
def test_a_server_that_nobody_sends_to_stays_as_it_is(name, method):
  made = robust.with_aggregation(tiny.method_of(method), name)
  server = made.init_server(jax.random.key(0), jnp.zeros((1, 6)))
  model = getattr(server, "model", server)
  nothing = jax.tree.map(lambda x: jnp.zeros((5, *x.shape)), model)
  silence = {COHORT: hear(nothing, np.zeros(5, bool), 5)}
  after = made.server_update(server, silence, toy.at_server())
  assert tiny.largest_difference(after, server) == 0


def test_clients_of_weight_zero_are_left_out():
  method = robust.with_aggregation(mean_taker(), "median")
  given = messages(5)
  heard = hear(given, np.ones(5, bool), 5)
  weights = jnp.array([1.0, 0.0, 2.0, 5.0, 0.0])
  heard = heard._replace(collected=heard.collected._replace(weights=weights))
  server = jax.tree.map(lambda x: x[0], messages(1, seed=3))
  new = method.server_update(server, {COHORT: heard}, toy.at_server())
  expected = jax.tree.map(
    lambda s, x: s + by_hand(x[[0, 2, 3]], None), server, given
  )
  assert tiny.largest_difference(new, expected) < 1e-5


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"aggregation": "max"}, "aggregation='max': must be one of mean, med"),
    ({"assumed_byzantine": -1}, "assumed_byzantine=-1: must be at least 0"),
    (
      {"aggregation": "krum", "clients": 4},
      "assumed_byzantine=1: must be less with clients=4 and aggregation='krum'",
    ),
    (
      {"aggregation": "krum", "clients": 2, "assumed_byzantine": 0},
      "clients=2: must be at least 3 with aggregation='krum'",
    ),
    (
      {
        "aggregation": "multi_krum",
        "clients_per_round": 8,
        "assumed_byzantine": 3,
      },
      "assumed_byzantine=3: must be less with clients_per_round=8 .* needs 9",
    ),
    (
      {"aggregation": "bulyan", "clients": 14, "assumed_byzantine": 3},
      "assumed_byzantine=3: .* with clients=14 .* needs 15 clients",
    ),
    (
      {"aggregation": "multi_krum", "krum_clients": 41},
      "krum_clients=41: must be at most clients=40, or 0",
    ),
    ({"trim": 0.5}, r"trim=0.5: must be at least 0 and less than 0.5"),
    ({"trim": -0.1}, r"trim=-0.1: must be at least 0"),
    ({"trim": float("nan")}, r"trim=nan: must be at least 0"),
    ({"clip_norm": 0.0}, "clip_norm=0.0: must be positive"),
    ({"clip_norm": float("inf")}, "clip_norm=inf: must be finite"),
    (
      {"aggregation": "median", "client_state": "host"},
      "client_state='host': must be 'device' with aggregation='median'",
    ),
  ],
)
def test_settings_that_cannot_be_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    qj.Settings(**changes)


def digits_run(clients: int, byzantine_clients: int, **changes) -> float:
  """Accuracy of FedAvg's model on digits spread iid over all clients."""
  values: dict[str, Any] = {
    "dataset": "digits",
    "method": "fedavg",
    "clients": clients,
    "byzantine_clients": byzantine_clients,
    "partition": "iid",
    "bits": (32,),
    "learning_rate": (0.1,),
    "eval_every": 100,
    "devices": 1,
    "strategy": "vmap",
  }
  settings = qj.Settings(**{**values, **changes})
  result = qj.run(settings, display=qj.Display(quiet=True))
  return result.summary["accuracy"]["global"]["mean"]


def spoiled(**changes) -> float:
  """Its accuracy, 0 if all clients diverge."""
  try:
    return digits_run(**changes)
  except qj.DivergenceError:
    return 0.0


# Otherwise messages that are far too long are left out of any average.
NO_LIMIT = 1e30


@pytest.mark.long
def test_a_tenth_of_the_clients_spoils_the_mean_alone():
  size = {"clients": 20, "rounds": 15, "steps": 20, "hidden": (32, 32)}
  clean = digits_run(**size, byzantine_clients=0)
  assert clean > 0.9
  for attack in ("random", "sign_flip"):
    lie = {
      "attack": attack,
      "byzantine_clients": 2,
      "max_message_norm": NO_LIMIT,
    }
    assert digits_run(**size, **lie) < 0.5
    assert digits_run(**size, **lie, aggregation="median") > clean - 0.03
  assert digits_run(**size, **lie, aggregation="trimmed_mean") > clean - 0.03


@pytest.mark.skipif(
  "QUPED_LONG_TESTS" not in os.environ, reason="takes minutes"
)
@pytest.mark.parametrize("attack", ["random", "sign_flip"])
@pytest.mark.parametrize("method", ["fedavg", "quped"])
def test_5_of_50_clients_spoil_the_mean_alone(method, attack):
  size = {"clients": 50, "rounds": 40, "method": method}
  size |= {"learning_rate": (0.05,), "shared_learning_rate": 0.05}
  if method == "quped":
    options = {"global_loss": "distill+labels"}
    size["method_options"] = {"quped": options}
  lie = {"attack": attack, "byzantine_clients": 5, "max_message_norm": NO_LIMIT}
  for seed in range(3):
    clean = digits_run(**size, byzantine_clients=0, seed=seed)
    assert clean > 0.9
    assert spoiled(**size, **lie, seed=seed) < clean - 0.15
    for name in ("median", "trimmed_mean"):
      accuracy = digits_run(**size, **lie, aggregation=name, seed=seed)
      assert accuracy > clean - 0.03, (name, seed)
