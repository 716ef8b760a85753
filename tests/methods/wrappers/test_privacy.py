"""Differential privacy: clipping, noise on the sum, and what it adds up to."""

import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

import quped_jax as qj
from quped_jax import chances
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.training import make_schedule
from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import trees
from quped_jax.methods.wrappers import privacy
from tests import tiny

COHORT = tiny.COHORT
PRIVATE = {"dp_clip": 0.5, "dp_noise": 1.0, "participation": (0.6,)}
UNIFORM = {"method_options": {"fedavg": {"weighting": "uniform"}}}


def model(value: float = 0.0, size: int = 20000) -> api.GlobalModel:
  """A model of two arrays and two statistics."""
  params = {
    "a": jnp.full((size // 100, 100), value),
    "b": jnp.full(size, value),
  }
  stats = {
    "norm": {"mean": jnp.full(size, value), "var": jnp.full(size, value)}
  }
  return api.GlobalModel(params, stats)


def adding(**how) -> api.FederatedMethod:
  """A private method whose server adds the mean to its model."""
  settings = {"bound": 2.0, "noise": 1.5, "expected": {32: 3.0, 1: 1.0}}
  return privacy.with_privacy(tiny.method_of("quped"), **{**settings, **how})


def at_server(seed: int = 0) -> api.Context:
  return api.Context(
    round=jnp.int32(0),
    key=jax.random.key(seed),
    client_id=jnp.int32(-1),
    spec=None,
    rates=None,
    shared_learning_rate=None,
  )


def step(method, totals, server=None, seed: int = 0):
  """The server's model after sums of cohorts, from zero by default."""
  server = model() if server is None else server
  heard = {f"c{i}": api.Aggregate(t, 0.0) for i, t in enumerate(totals)}
  return method.server_update(server, heard, at_server(seed))


def test_the_noise_has_the_deviation_that_was_asked_for():
  # No client sent anything, and this must not show.
  new = step(adding(), [model()], model(1e3))
  deviation = 1.5 * 2.0 / 4.0
  parts = [np.ravel(x) - 1e3 for x in jax.tree.leaves(new)]
  for part in parts:
    # Of 20,000 draws, to four standard errors.
    assert abs(np.std(part) / deviation - 1) < 4 / math.sqrt(2 * 20000)
    assert abs(np.mean(part)) < 4 * deviation / math.sqrt(20000)
    assert scipy.stats.kstest(part / deviation, "norm").pvalue > 1e-3
  correlations = np.corrcoef(parts) - np.eye(len(parts))
  assert np.max(np.abs(correlations)) < 4 / math.sqrt(20000)


def test_rounds_have_noise_of_their_own():
  method = adding()
  first, again, other = (
    np.ravel(step(method, [model()], seed=seed).params["b"])
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert abs(np.corrcoef(first, other)[0, 1]) < 4 / math.sqrt(20000)


def test_cohorts_share_one_noise_and_the_divisor_is_fixed():
  method = adding()
  zero = step(method, [model()])
  one = step(method, [model(2.0)])
  both = step(method, [model(0.5), model(1.5)])
  assert tiny.largest_difference(one, both) < 1e-5
  # The divisor is 4, whatever the weights received, which are zero here.
  expected = jax.tree.map(lambda x: x + 2.0 / 4.0, zero.params)
  assert tiny.largest_difference(one.params, expected) < 1e-5


@pytest.mark.slow
def test_what_is_averaged_by_precision_has_a_divisor_for_each():
  """Known numbers alone divide, whoever took part."""
  size = 2000
  server = api.GlobalModel(
    jnp.zeros(3),
    {"var": jnp.full(size, 1e3)},
    by_precision.Held({"var": jnp.full((3, size), 1e3)}, jnp.ones(3)),
  )
  own = by_precision.OfPrecision({"var": jnp.full(size, 0.01)}, 3)
  message = api.GlobalModel(jnp.zeros(3), {"var": jnp.zeros(size)}, own)
  method = adding(expected={32: 3.0, 1: 1.0, 2: 0.5}, noise=0.0)

  def total(senders, weight=7.0):
    sums = [
      method.receive(
        None,
        message,
        weight,
        at_server()._replace(spec=api.ClientSpec(jnp.int32(bits))),
        COHORT,
      )
      for bits in senders
    ]
    return jax.tree.map(lambda *x: sum(x), *sums)

  def after(method, heard):
    new = method.server_update(server, {COHORT: heard}, at_server())
    return np.asarray(new.quantized_stats.values["var"]) - 1e3

  # Divided by 1 of 1 bit and 0.5 of 2 bits; of 3 bits there is nobody.
  heard = total([1, 1, 1, 2, 32])
  for moved, expected in zip(
    after(method, heard), (0.03, 0.02, 0.0), strict=True
  ):
    np.testing.assert_allclose(moved, expected, atol=1e-4)
  noisy = adding(expected={1: 1.0, 2: 0.5}, noise=1.5, bound=0.1)
  one, two, three = after(noisy, jax.tree.map(jnp.zeros_like, heard))
  assert abs(np.std(one) / 0.15 - 1) < 4 / math.sqrt(2 * size)
  assert abs(np.std(two) / 0.30 - 1) < 4 / math.sqrt(2 * size)
  np.testing.assert_array_equal(three, 0)


def test_no_variance_becomes_negative():
  server = model(0.1)
  new = step(adding(), [model()], server)
  variances = np.asarray(new.stats["norm"]["var"])
  assert variances.min() == 0 and 0.4 < np.mean(variances == 0) < 0.5
  # Anything that is not a variance may be negative.
  assert np.min(new.stats["norm"]["mean"]) < -1


@pytest.mark.parametrize("value", [0.0, 1e-4, 0.5, 1e20, np.inf, np.nan])
def test_no_client_moves_the_sum_by_more_than_the_clip(value):
  method = adding()
  message = model(value, size=200)
  for weight in (0.0, 1.0, 1e6):
    heard = method.receive(None, message, weight, None, COHORT)
    leaves = [np.ravel(x) for x in jax.tree.leaves(heard.total)]
    length = np.linalg.norm(np.concatenate(leaves))
    assert length <= 2.0 * (1 + 1e-6)
    if value == 1e-4:
      assert tiny.largest_difference(heard.total, message) == 0
    if value == 0.5:
      assert length == pytest.approx(2.0, rel=1e-5)


def played(changes, rounds: int = 1, **how):
  """What some rounds of FedAvg added to the server's model."""
  made = tiny.assemble(
    tiny.make_settings("fedavg", 5, bits=(32,), **UNIFORM, **changes, **how)
  )
  state = made.simulation.init(0)
  start = tiny.to_host(state).server.model
  state, _ = made.simulation.run_rounds(state, rounds)
  return trees.difference(tiny.to_host(state).server.model, start)


@pytest.mark.slow
def test_without_a_bound_and_without_noise_it_is_the_mean():
  settings = tiny.make_settings("fedavg", 5, bits=(32,), **UNIFORM)
  made = tiny.assemble(settings)
  method = privacy.with_privacy(
    made.method, bound=1e30, noise=0.0, expected={32: 5.0}
  )
  simulation = qj.make_simulation(
    method,
    made.federation,
    made.population,
    {COHORT: np.arange(5)},
    schedule=make_schedule(settings),
    strategy="chunks",
  )
  ends = [
    tiny.to_host(s.run_round(s.init(0))[0]).server.model
    for s in (made.simulation, simulation)
  ]
  assert tiny.largest_difference(*ends) < 1e-6
  start = tiny.to_host(simulation.init(0)).server.model
  assert tiny.largest_difference(ends[0], start) > 1e-2


@pytest.mark.slow
def test_devices_add_the_noise_once():
  one, two = (
    played(PRIVATE, rounds=2, **how)
    for how in ({}, {"devices": 2, "chunk_size": 2})
  )
  # Of 164 parameters, in each round.
  deviation = 0.5 / (5 * 0.6) * math.sqrt(2)
  values = np.concatenate([np.ravel(x) for x in jax.tree.leaves(one)])
  assert values.size == 164 and abs(np.std(values) / deviation - 1) < 0.4
  assert tiny.largest_difference(one, two) < 1e-4


BASE: dict[str, Any] = {
  "method": "quped", "dp_clip": 1.0, "dp_noise": 1.0, "participation": (0.5,)
}  # fmt: skip


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"dp_clip": -1.0}, "dp_clip=-1.0: must be at least 0"),
    ({"dp_clip": float("inf")}, "dp_clip=inf: must be finite"),
    ({"dp_noise": float("nan")}, "dp_noise=nan: must be at least 0"),
    ({"dp_noise": 0.0}, "dp_noise=0.0: must be at least 0.1 with dp_clip=1.0"),
    ({"dp_clip": 0.0}, "dp_noise=1.0: must be 0 with dp_clip=0"),
    ({"dp_delta": 0.0}, "dp_delta=0.0: must be from 0 to 1, both excluded"),
    ({"dp_delta": 1.0}, "dp_delta=1.0: must be from 0 to 1, both excluded"),
    (
      {"dp_delta": 0.03},
      r"dp_delta=0.03: must be less than 1 / clients, 0.025",
    ),
    ({"participation": ()}, r"participation=\(\): must be chances"),
    (
      {"participation": (), "clients_per_round": 10},
      r"participation=\(\): must be chances",
    ),
    (
      {"participation": (), "participation_trace": "a.csv"},
      r"participation=\(\): must be chances",
    ),
    ({"method": "fedavg"}, "fedavg.weighting='samples': must be 'uniform'"),
    ({"aggregation": "median"}, "aggregation='median': must be 'mean'"),
    ({"epochs": 1}, "epochs=1: must be 0 with dp_clip=1.0"),
  ],
)
def test_what_the_guarantee_does_not_allow_is_an_error(changes, message):
  qj.Settings(**BASE)
  with pytest.raises(ValueError, match=f"^{message}"):
    qj.Settings(**{**BASE, **changes})


@pytest.mark.slow
def test_stragglers_and_drop_outs_are_allowed_and_give_no_rebate():
  plain, uneven = (
    privacy.guarantee(
      dp_clip=s.dp_clip,
      dp_noise=s.dp_noise,
      dp_delta=s.dp_delta,
      clients=s.clients,
      participation=s.participation,
      rounds=s.rounds,
    )
    for s in (
      qj.Settings(**BASE),
      qj.Settings(**BASE, dropout=0.5, stragglers=0.5),
    )
  )
  assert plain == uneven


def exact_epsilon(sigma: float, delta: float) -> float:
  """Of one Gaussian mechanism without sampling (Balle and Wang, 2018)."""
  phi = scipy.stats.norm.cdf

  def excess(epsilon):
    near, far = 1 / (2 * sigma), epsilon * sigma
    return phi(near - far) - math.exp(epsilon) * phi(-near - far) - delta

  return scipy.optimize.root_scalar(excess, bracket=(0, 200)).root


@pytest.mark.parametrize(
  ("sigma", "rounds", "delta"),
  [(1.0, 1, 1e-5), (4.0, 1, 1e-3), (3.0, 20, 1e-5), (0.7, 1, 1e-6)],
)
def test_epsilon_of_everybody_in_all_rounds_has_a_closed_form(
  sigma, rounds, delta
):
  """Rounds of Gaussian mechanisms are one of sigma / sqrt(rounds)."""
  exact = exact_epsilon(sigma / math.sqrt(rounds), delta)
  got = privacy.epsilon(sigma, 1.0, rounds, delta)
  assert exact - 1e-6 <= got <= 1.002 * exact


@pytest.mark.parametrize(("chance", "sigma"), [(0.2, 1.0), (0.5, 2.0)])
def test_epsilon_of_one_sampled_round_is_what_integrals_give(chance, sigma):
  """Delta is the hockey-stick divergence, the larger of its two ways."""
  delta = 1e-4
  got = privacy.epsilon(sigma, chance, 1, delta)

  def without(x):
    return scipy.stats.norm.pdf(x, 0, sigma)

  def within(x):
    there = scipy.stats.norm.pdf(x, 1, sigma)
    return (1 - chance) * without(x) + chance * there

  def divergence(p, q):
    x = np.linspace(-15 * sigma, 15 * sigma, 400001)
    y = np.maximum(p(x) - math.exp(got) * q(x), 0)
    return scipy.integrate.trapezoid(y, x)

  largest = max(divergence(within, without), divergence(without, within))
  # An upper bound, and a close one.
  assert 0.99 * delta < largest <= delta * (1 + 1e-6)


@pytest.mark.slow
def test_more_noise_fewer_rounds_and_rarer_clients_cost_less():
  base = privacy.epsilon(1.0, 0.2, 40, 1e-5)
  assert privacy.epsilon(1.5, 0.2, 40, 1e-5) < base
  assert privacy.epsilon(1.0, 0.2, 20, 1e-5) < base
  assert privacy.epsilon(1.0, 0.1, 40, 1e-5) < base
  assert privacy.epsilon(1.0, 0.2, 40, 1e-3) < base
  assert privacy.epsilon(1.0, 1.0, 40, 1e-5) > base


def test_hardly_any_noise_is_a_large_number_at_once():
  epsilon = privacy.epsilon(privacy.SMALLEST_NOISE, 1.0, 10000, 1e-5)
  assert 1e5 < epsilon < math.inf


@pytest.mark.slow
def test_a_run_says_what_it_promises(tmp_path):
  settings = qj.Settings(
    **{**BASE, "participation": (0.9, 0.5), "method": "quped"},
    clients=3, classes_per_client=4, hidden=(8, 8), bits=(32,), rounds=2,
    steps=2, dp_delta=1e-3, devices=1,
  )  # fmt: skip
  result = qj.run(settings, tmp_path, display=qj.Display(quiet=True))
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["privacy"] == result.summary["privacy"]
  assert summary["privacy"] == {
    # The largest participation probability, for all clients.
    "epsilon": privacy.epsilon(1.0, 0.9, 2, 1e-3),
    "delta": 1e-3,
    "neighbours": "one client added or removed",
    "clip": 1.0,
    "noise_multiplier": 1.0,
    "sampling_probability": 0.9,
    "expected_participants": pytest.approx(0.9 + 0.5 + 0.9),
    "rounds": 2,
  }
  assert all(
    np.isfinite(list(record.values())).all() for record in result.history
  )


@pytest.mark.parametrize("chance", [1e-9, 1e-7, 0.3])
def test_the_chance_that_is_counted_with_is_the_one_that_is_drawn(chance):
  settings = qj.Settings(
    **{**BASE, "participation": (chance,)}, clients=3, bits=(32,), dp_delta=1e-9
  )
  made = assemble(settings, federation=tiny.make_federation((9, 9, 9)))
  drawn = made.population.participation.probability
  assert made.privacy is not None and drawn is not None
  np.testing.assert_array_equal(
    chances.values(drawn), made.privacy["sampling_probability"]
  )
  assert made.privacy["sampling_probability"] == pytest.approx(chance, rel=1e-5)


def test_without_privacy_nothing_is_promised_and_nothing_is_needed(monkeypatch):
  monkeypatch.setitem(sys.modules, "dp_accounting", None)
  settings = tiny.make_settings("quped", 5)
  assert assemble(settings, federation=tiny.make_federation()).privacy is None


def test_a_missing_accountant_is_an_error_before_data_is_loaded(monkeypatch):
  monkeypatch.setitem(sys.modules, "dp_accounting", None)
  settings = qj.Settings(**BASE, rounds=1234, data_dir="/nowhere")
  with pytest.raises(ImportError, match="dp_clip: needs .* dp-accounting"):
    assemble(settings)


def test_a_second_set_that_never_travels_needs_no_divisor():
  """FedBN's statistics are all each client's own."""
  held = by_precision.Held({}, jnp.ones(2))
  server = api.GlobalModel(jnp.zeros(3), {}, held)
  own = by_precision.OfPrecision({}, 2)
  message = api.GlobalModel(jnp.ones(3), {}, own)
  method = adding(expected={1: 1.0, 2: 1.0})
  about = at_server()._replace(spec=api.ClientSpec(jnp.int32(1)))
  heard = method.receive(None, message, 1.0, about, COHORT)
  new = method.server_update(server, {COHORT: heard}, at_server())
  assert new.quantized_stats.values == {}
