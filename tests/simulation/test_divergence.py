"""Clients that diverge are found, by what they send."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import methods
from quped_jax.methods import api
from quped_jax.methods.blocks import personal
from quped_jax.simulation import divergence
from tests import tiny


def result(loss=1.0, weight=1.0, client=(1.0,), message=(3.0, 4.0)):
  return api.ClientResult(
    jnp.asarray(client),
    jnp.asarray(message),
    weight,
    {"loss": jnp.asarray(loss)},
  )


def tally(heard, diverged):
  nothing = jnp.zeros_like(divergence.new_monitor(True).norms)
  return divergence.Tally(
    jnp.float32(heard), jnp.float32(diverged), nothing, nothing
  )


@jax.jit
def counted(value):
  """A histogram of one value: before the first round every value is counted."""
  return divergence.judge(
    result(loss=value), divergence.new_monitor(False), 0.0
  ).losses


def known(norms=(), calibrated=True):
  """DivergenceMonitor after messages of these norms."""
  fresh = divergence.new_monitor(calibrated)
  total = sum((counted(jnp.float32(x)) for x in norms), fresh.norms)
  return fresh._replace(norms=total)


@pytest.mark.parametrize(
  ("changes", "max_norm", "fine"),
  [
    ({}, 0.0, True),
    ({"loss": 1e6}, 0.0, True),
    ({"loss": 1.1e6}, 0.0, False),
    ({"loss": jnp.nan}, 0.0, False),
    ({"loss": jnp.inf}, 0.0, False),
    ({"weight": jnp.nan}, 0.0, False),
    ({"client": (1.0, jnp.nan)}, 0.0, False),
    ({"client": (1e26,)}, 0.0, True),
    ({"message": (jnp.nan, 0.0)}, 0.0, False),
    ({"message": (jnp.inf, 0.0)}, 0.0, False),
    # Whose squares are beyond float32.
    ({"message": (1e26, 0.0)}, 0.0, False),
    ({}, 5.0, True),
    ({}, 4.9, False),
  ],
)
def test_a_round_counts_if_all_of_it_is_in_bounds(changes, max_norm, fine):
  found = divergence.judge(result(**changes), known(), max_norm)
  assert bool(found.heard) == fine
  assert bool(found.diverged) != fine
  assert int(jnp.sum(found.norms)) == int(jnp.sum(found.losses)) == fine


@pytest.mark.parametrize(
  ("weight", "fine"),
  [
    (0.0, True),
    (1.0, True),
    (0.5, True),
    (23, True),
    (23.5, False),
    (1e30, False),
    (-1e-6, False),
    (-400.0, False),
    (np.inf, False),
    (-np.inf, False),
    (np.nan, False),
  ],
)
def test_no_weight_is_above_the_number_of_samples(weight, fine):
  samples = jnp.int32(23)
  found = divergence.judge(result(weight=weight), known(), 0.0, samples=samples)
  assert bool(found.heard) == fine
  assert bool(found.diverged) != fine


def test_all_of_a_message_must_be_plausible():
  for parts, fine in (
    (True, True),
    ({"a": True, "b": jnp.bool_(False)}, False),
    ((jnp.bool_(True), True), True),
    (False, False),
  ):
    found = divergence.judge(result(), known(), 0.0, plausible=parts)
    assert bool(found.heard) == fine


CLAIMS = (None, 1e30, -400.0, np.inf, None)


def overweight(make):
  """The method, with clients that claim any weight."""

  def make_overweight(*args):
    method = make(*args)

    def client_update(download, client, data, context, cohort):
      result = method.client_update(download, client, data, context, cohort)
      claims = jnp.array([np.nan if x is None else x for x in CLAIMS])
      claim = claims[context.client_id]
      weight = jnp.where(jnp.isnan(claim), result.weight, claim)
      return result._replace(weight=weight)

    return method.replace(client_update=client_update)

  return make_overweight


@pytest.mark.slow
@pytest.mark.parametrize(
  ("aggregation", "client_state"),
  [("mean", "host"), ("norm_clipped_mean", "device")],
)
def test_who_claims_too_much_weight_is_left_out(
  aggregation, client_state, monkeypatch, tmp_path
):
  changes = {"aggregation": aggregation, "client_state": client_state}
  honest = [i for i, claim in enumerate(CLAIMS) if claim is None]
  trace = tmp_path / "trace.csv"
  rows = [f"0,{i}" for i in honest]
  trace.write_text("\n".join(["round,client", *rows, ""]))

  def play(**further):
    settings = tiny.make_settings("fedavg", 5, bits=(32,), **changes, **further)
    simulation = tiny.assemble(settings).simulation
    state, metrics = simulation.run_round(simulation.init(0))
    return jax.device_get(state.server), metrics

  expected, _ = play(participation_trace=str(trace))
  entry = methods.METHODS["fedavg"]
  lying = entry._replace(make=overweight(entry.make))
  monkeypatch.setitem(methods.METHODS, "fedavg", lying)
  got, metrics = play()
  assert (metrics["participants"], metrics["diverged"]) == (2, 3)
  assert tiny.largest_difference(expected, got) < 1e-6


def test_a_method_without_a_loss_counts_none():
  found = divergence.judge(result()._replace(metrics={}), known(), 0.0)
  assert found.heard
  assert not np.any(found.losses)


def test_one_round_that_was_undone_is_reported():
  undone, streak, last = [0, 1, 2, 5], [0, 1, 0, 5], [-1, 7, 3, 9]
  records = divergence.DivergenceRecord(
    *(np.array(x) for x in (undone, streak, undone, last))
  )
  found = divergence.divergence_reports({"a": [2, 0, 1, -1]}, {"a": records})
  assert found == [
    divergence.DivergenceReport(0, undone=1, streak=1, longest=1, last=7),
    divergence.DivergenceReport(1, undone=2, streak=0, longest=2, last=3),
  ]


def test_the_monitor_adds_up_what_was_counted():
  monitor = known([3.0, 5.0])
  more = tally(1, 0)._replace(norms=known([7.0]).norms)
  after = divergence.after_round(monitor, more, 2, False, 1)
  np.testing.assert_array_equal(after.norms, known([3.0, 5.0, 7.0]).norms)
  assert not np.any(after.losses)


def test_integers_of_a_message_have_no_norm():
  message = {"labels": jnp.array([2**30]), "model": jnp.array([3.0, 4.0])}
  found = divergence.judge(result()._replace(message=message), known(), 5.0)
  assert found.heard


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_the_median_is_exact_to_the_width_of_a_bin(count):
  norms = np.random.default_rng(count).lognormal(0.0, 3.0, count)
  middle = np.sort(norms)[(count - 1) // 2]
  found = float(divergence.median(known(norms).norms))
  assert middle <= found * (1 + 1e-6)
  assert found <= middle * 2**0.25 * (1 + 1e-6)


def test_norms_beyond_all_bins_are_in_the_outer_ones():
  assert divergence.median(known([1e-30]).norms) < 1e-18
  assert divergence.median(known([1e30]).norms) == pytest.approx(2.0**64)
  # A norm of zero says nothing about how long a message may be.
  assert divergence.median(known([0.0, 0.0, 2.0]).norms) > 1.9
  assert divergence.median(known().norms) == np.inf


def test_a_message_is_compared_with_those_of_earlier_rounds():
  before = known([1.0, 1.0, 1.0, 1e9])
  # The bin of 1 ends at 2 ** 0.25.
  for length, fine in ((118.0, True), (120.0, False)):
    message = jnp.array([length, 0.0])
    found = divergence.judge(result()._replace(message=message), before, 0.0)
    assert bool(found.heard) == fine


@pytest.mark.parametrize(
  ("usual", "loss", "fine"),
  [
    # A new client, whom the others' model does not fit.
    (1e-3, 30.0, True),
    (1e-3, 990.0, True),
    (1e-3, 1010.0, False),
    # Losses of another scale.
    (64.0, 7e4, True),
    (64.0, 8e4, False),
    (1e5, 9.9e5, True),
    (1e5, 1.1e6, False),
  ],
)
def test_a_loss_is_compared_with_those_of_earlier_rounds(usual, loss, fine):
  losses = 9 * counted(jnp.float32(usual))
  before = known()._replace(losses=losses)
  assert bool(divergence.judge(result(loss), before, 0.0).heard) == fine
  # With a limit on norms, the loss is not compared with others.
  assert bool(divergence.judge(result(loss), before, 9.0).heard) == (
    loss <= 1e6
  )


def test_before_the_first_round_norms_are_heard_and_nothing_else():
  found = divergence.judge(
    result(message=(1e9, 0.0)), known(calibrated=False), 0.0
  )
  assert not found.heard and not found.diverged
  assert int(jnp.sum(found.norms)) == int(jnp.sum(found.losses)) == 1


def test_a_streak_ends_with_a_round_that_counts():
  records = jax.tree.map(lambda x: x[0], divergence.new_records(1))

  for round_, diverged in enumerate([1, 1, 0, 1, 0]):
    records = divergence.recorded(
      records, tally(1 - diverged, diverged), round_
    )
  assert [int(x) for x in records] == [3, 0, 2, 3]


def after(health_, heard, diverged, num_clients, rounds=1, failed=False):
  for _ in range(rounds):
    health_ = divergence.after_round(
      health_, tally(heard, diverged), num_clients, jnp.bool_(failed), 7
    )
  return health_


@pytest.mark.parametrize(
  ("diverged", "num_clients", "rounds"), [(4, 4, 3), (1, 4, 12), (50, 99, 3)]
)
def test_a_run_is_over_when_enough_diverged_in_a_row(
  diverged, num_clients, rounds
):
  state = after(known(), 0, diverged, num_clients, rounds - 1)
  assert not state.over
  # A round without participants changes nothing; one that is heard resets it.
  state = after(state, 0, 0, num_clients)
  heard = after(state, 1, diverged, num_clients)
  assert after(state, 0, diverged, num_clients).over
  assert not after(heard, 0, diverged, num_clients, rounds - 1).over
  # And it stays over.
  assert after(after(state, 0, diverged, num_clients), 1, 0, num_clients).over


def test_a_server_that_fails_is_remembered_by_its_first_round():
  state = after(known(), 1, 0, 4)
  assert state.failed == -1
  state = after(state, 1, 0, 4, failed=True)
  assert after(state, 1, 0, 4).failed == 7


def test_counts_of_norms_do_not_overflow():
  many = jnp.zeros_like(known().norms).at[260].set(2**30).at[9].set(5)
  assert divergence.median(many) == pytest.approx(2 ** (5 / 4))
  state = known()._replace(norms=many)
  assert int(jnp.sum(after(state, 1, 0, 4).norms)) <= 2**29 + 5


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_servers_step_is_measured_by_messages_and_by_what_it_moves(scale):
  norms = known((0.5 * scale, 2 * scale)).norms
  old = {"w": jnp.zeros(4), "b": jnp.full(2, 1e-3 * scale), "other": 1.0}
  new = {**old, "w": jnp.full(4, 3 * scale), "other": 9.0}

  def moves(server):
    return server["w"], server["b"]

  step = divergence.server_step(moves, old, new, norms)
  # The norm 6 against 2, to the width of a bin.
  assert 3 / 2 ** (1 / 4) - 1e-3 <= step <= 3.001
  longer = {**old, "b": jnp.full(2, 6 * scale / 2**0.5)}
  step = divergence.server_step(moves, longer, {**longer, "w": new["w"]}, norms)
  np.testing.assert_allclose(step, 1.0, rtol=1e-5)
  nothing = jnp.zeros_like(norms)
  start = {**old, "b": jnp.zeros(2)}
  assert divergence.server_step(moves, start, new, nothing) == 0
  assert divergence.server_step(None, old, new, norms) == 0


def test_the_length_of_the_last_step_that_was_taken_is_kept():
  monitor = divergence.after_round(known(), tally(1, 0), 4, False, 3, 7.0)
  assert monitor.server_step == 7
  monitor = divergence.after_round(monitor, tally(0, 1), 4, False, 4, 0.0)
  assert monitor.server_step == 7


def test_a_negative_variance_is_not_sound():
  """It gives NaN, though not on every device."""

  def model(var):
    return api.GlobalModel({"var": -jnp.ones(2)}, {"norm": {"var": var}})

  assert divergence.sound((model(jnp.zeros(2)), {"var": -jnp.ones(1)}))
  assert not divergence.sound([model(jnp.array([1.0, -1e-3]))])
  second = model(jnp.ones(2))._replace(quantized_stats={"var": -jnp.ones(1)})
  assert not divergence.sound(second)
  assert not divergence.sound(model(jnp.full(2, jnp.nan)))


@pytest.mark.slow
def test_false_messages_leave_no_negative_variance_at_the_server():
  settings = tiny.make_settings(
    "fedavg", 4, bits=(32,), model="normed", hidden=(), byzantine_clients=1
  )
  made = tiny.assemble(settings)
  state = made.simulation.init(0)
  for _ in range(3):
    state, _ = made.simulation.run_round(state)
    stats = personal.model_of(state.server).stats
    smallest = [np.min(layer["var"]) for layer in stats.values()]
    assert min(smallest) >= 0
  assert min(smallest) == 0  # The attack would make it negative.
