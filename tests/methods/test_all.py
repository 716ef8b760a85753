"""What every registered method promises, in one table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import methods
from tests import tiny

COHORT = tiny.COHORT
PHASES = ("quped", "qupel", "local")

each = pytest.mark.parametrize("name", tiny.METHODS)


def test_the_table_holds_every_method():
  assert set(tiny.METHODS) == set(methods.METHODS)


VMAP, ONE, THREE = {"strategy": "vmap"}, {"chunk_size": 1}, {"chunk_size": 3}
ON_HOST = {"strategy": "dispatch", "chunk_size": 3}
# Five clients do not divide over two devices.
DEVICES = {"devices": 2, "chunk_size": 2}


def strategies(name):
  """Ways to run; those that compile slowly for one method only.

  In double precision chunks and devices run for all of them.
  """
  further = [THREE, ON_HOST] if name == "local" else []
  return [VMAP, ONE, *further]


@each
def test_one_round_does_not_depend_on_how_many_run_at_once(name):
  reference, *others = (
    tiny.to_host(tiny.tiny(name, **how).play(1)) for how in strategies(name)
  )
  start = tiny.tiny(name).state()
  # A weight on the border of two cells could go either way.
  for state in (start, reference):
    client = state.clients[COHORT]
    params = client.params if name != "fedavg" else stacked(state.server)
    assert tiny.midpoint_margin(params, client.codebooks) > 1e-4
  for other in others:
    assert tiny.largest_difference(reference, other) < 1e-5
  assert (
    tiny.largest_difference(tiny.to_host(start).clients, reference.clients)
    > 1e-3
  )


def stacked(server):
  count = len(tiny.COUNTS)
  return jax.tree.map(lambda x: np.stack([x] * count), server.model.params)


@each
def test_five_rounds_agree_in_double_precision(name):
  start = tiny.to_host(tiny.tiny(name).state())
  double = jax.tree.map(
    lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, start
  )
  ends = []
  with jax.enable_x64(True), tiny.quick_compilation():
    for how in (VMAP, THREE, DEVICES):
      made = tiny.assemble(tiny.make_settings(name, len(tiny.COUNTS), **how))
      layout = made.simulation.layout
      assert layout.devices == how.get("devices", 1)
      count = len(tiny.COUNTS)
      state = tiny.from_host(tiny.in_slots(double, layout.slots(count)))
      # One after the other, and several in one dispatch.
      state, _ = made.simulation.run_round(state)
      state, _ = made.simulation.run_rounds(state, 4)
      assert int(state.round) == 5
      assert made.simulation.program.compilations == 1
      ends.append(tiny.in_slots(tiny.to_host(state), count))
  floats = [x for x in jax.tree.leaves(ends[0].clients) if x.dtype.kind == "f"]
  assert floats and all(x.dtype == np.float64 for x in floats)
  for other in ends[1:]:
    assert tiny.largest_difference(ends[0], other) < 1e-9


@each
def test_other_clients_and_later_rounds_compile_nothing(name):
  made = tiny.tiny(name)
  state = made.play(1)
  traces, programs = made.traces.calls, made.simulation.program.compilations
  for _ in range(3):
    state, _ = made.simulation.run_round(state)
  # Precisions lie in the state, as codebooks: the clients swap them.
  state = tiny.change_codebooks(
    state, lambda books: jax.tree.map(lambda x: x[::-1], books)
  )
  population = made.population
  others = [
    population._replace(
      spec=population.spec._replace(bits=population.spec.bits[::-1])
    ),
    population._replace(
      rates=jax.tree.map(lambda x: 0.5 * x, population.rates)
    ),
    population._replace(shared_learning_rate=jnp.float32(0.01)),
  ]
  for other in others:
    state, _ = made.simulation.program(
      state, jnp.int32(1), made.federation, other
    )
  assert made.traces.calls == traces
  assert made.simulation.program.compilations == programs


@each
def test_rates_of_zero_change_nothing(name):
  made = tiny.tiny(name)
  zero = jax.tree.map(jnp.zeros_like, made.population.rates)
  population = made.population._replace(
    rates=zero, shared_learning_rate=jnp.float32(0)
  )
  state = made.round_with(population)
  start = made.state()
  assert tiny.largest_difference(state.server, start.server) < 1e-6
  new, old = state.clients[COHORT], start.clients[COHORT]
  assert tiny.largest_difference(new.codebooks, old.codebooks) < 1e-6
  if name != "fedavg":
    assert tiny.largest_difference(new.params, old.params) < 1e-6


@each
def test_a_clients_rates_are_its_own(name):
  made = tiny.tiny(name)
  rates = made.population.rates
  other = rates._replace(learning_rate=rates.learning_rate.at[2].mul(3.0))
  state = made.round_with(made.population._replace(rates=other))
  plain = made.play(1)
  changed = [
    tiny.largest_difference(
      tiny.client(state.clients[COHORT].codebooks, i),
      tiny.client(plain.clients[COHORT].codebooks, i),
    )
    > 0
    for i in range(len(tiny.COUNTS))
  ]
  assert changed == [False, False, True, False, False]


def distinct_values(params):
  return {
    layer: len(np.unique(np.asarray(params[layer]["kernel"])))
    for layer in params
  }


def check_levels(made, state):
  """Quantized models have at most 2^bits values per tensor; others not."""
  for i, bits in enumerate(made.settings.bits):
    data = made.federation.client(jnp.int32(i))
    client = tiny.client(state.clients[COHORT], i)
    variants = made.method.variants(state.server, client, data, None, COHORT)
    assert made.method.headline == "quantized"
    counts = distinct_values(variants["quantized"][0])
    if bits == 32:
      assert counts["hidden_1"] == 64
    else:
      assert counts["hidden_1"] <= 2**bits
    assert counts["first"] == 48 and counts["last"] == 32


@each
def test_quantized_models_have_at_most_as_many_values_as_levels(name):
  made = tiny.tiny(name)
  check_levels(made, made.play(2))


@pytest.mark.parametrize("name", PHASES)
def test_the_second_phase_trains_levels_with_frozen_assignments(name):
  made = tiny.tiny(name)
  frozen = made.simulation.begin_finetune(made.play(2))
  start = tiny.to_host(frozen)
  state = made.simulation.program(
    frozen, jnp.int32(1), made.federation, made.population
  )[0]
  before, after = start.clients[COHORT], tiny.to_host(state).clients[COHORT]
  for x, y in zip(
    jax.tree.leaves(before.assignments),
    jax.tree.leaves(after.assignments),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)
  check_levels(made, state)
  book = after.codebooks["hidden_1"]["kernel"]
  index = np.asarray(after.assignments["hidden_1"]["kernel"], int)
  kernel = np.asarray(after.params["hidden_1"]["kernel"])
  moved = np.asarray(book.centers) != np.asarray(
    before.codebooks["hidden_1"]["kernel"].centers
  )
  for i, bits in enumerate(made.settings.bits):
    if bits == 32:
      assert len(np.unique(kernel[i])) == 64
      assert tiny.largest_difference(
        tiny.client(after.params, i), tiny.client(before.params, i)
      )
    else:
      np.testing.assert_array_equal(kernel[i], book.centers[i][index[i]])
      assert moved[i].any()


def test_fedavg_has_no_second_phase():
  made = tiny.tiny("fedavg")
  with pytest.raises(ValueError, match="finetune_at=0: must be 0"):
    made.simulation.begin_finetune(made.state())


@each
def test_traffic_is_the_model_in_single_precision_or_nothing(name):
  simulation = tiny.tiny(name).simulation
  # 6 -> 8 -> 8 -> 4, with biases.
  size = 4 * ((6 * 8 + 8) + (8 * 8 + 8) + (8 * 4 + 4))
  expected = 0 if name == "local" else size
  assert simulation.bytes_up == simulation.bytes_down == expected


@each
def test_the_loss_that_is_reported_falls(name):
  made = tiny.tiny(name)
  state, losses = made.state(), []
  for _ in range(12):
    state, metrics = made.simulation.run_round(state)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-3:]) < 0.75 * losses[0]


@each
def test_full_runs_end_as_well_however_many_run_at_once(name):
  """Rounding may change single predictions, but no accuracy that is reported.

  Mean accuracies after a run are compared over three seeds, on 100 test
  samples each: half a point is one and a half of 300.
  """
  means = []
  for how in (VMAP, ONE):
    made = tiny.tiny(name, **how)
    tables = [
      made.simulation.evaluate(made.play(15, seed))["test"] for seed in range(3)
    ]
    means.append(
      {k: np.mean([np.mean(t[k]) for t in tables]) for k in tables[0]}
    )
  for variant, value in means[0].items():
    assert abs(value - means[1][variant]) < 0.005
  assert means[0]["quantized"] > 0.6


@each
@pytest.mark.parametrize("server", [True, False])
def test_initial_states_depend_on_the_seed_alone(name, server):
  made = tiny.tiny(name)
  if name == "local" and server:
    assert made.state().server == ()
    return

  def params(state):
    if server or name == "fedavg":
      return state.server
    return state.clients[COHORT].params

  one, again, other = (params(made.state(seed)) for seed in (0, 0, 1))
  assert tiny.largest_difference(one, again) == 0
  assert tiny.largest_difference(one, other) > 1e-2


@each
def test_options_are_named_in_errors(name):
  with pytest.raises(ValueError, match=rf"{name}\.wrong=3: no such option"):
    qj.Settings(method_options={name: {"wrong": 3}})
