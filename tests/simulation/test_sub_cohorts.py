"""Tests of clients that run together because they need about as many levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.build_clients import build_clients, build_population
from quped_jax.experiment.build_method import build_method
from quped_jax.simulation import sub_cohorts
from quped_jax.simulation.simulation import make_simulation
from quped_jax.simulation.store import Store
from quped_jax.simulation.sub_cohorts import SubCohort
from tests import tiny

BITS = (1, 2, 3, 4, 32)
# What the clients of these need at most.
MOST = (0, 4, 16)


def test_a_cohort_is_divided_by_how_many_levels_are_summed_in_what_form():
  one, two = np.array([1, 32, 4, 2]), np.array([8, 8, 1])
  assert sub_cohorts.divide([one, two]) == (
    SubCohort((32,), 0, 1),
    SubCohort((1, 2), 4, 2),
    SubCohort((4,), 16, 1),
    SubCohort((8,), 256, 2),
  )
  assert sub_cohorts.divide([np.array([1, 1])]) == (SubCohort((1,), 2, 2),)


LARGE = 2**27  # Bytes of a client.
MANY = 10**6  # Client steps.


@pytest.mark.parametrize(
  ("platform", "bits", "devices", "client_bytes", "steps", "pays"),
  [
    ("gpu", (1, 2, 4, 32), 1, LARGE, MANY, True),
    ("cpu", (1, 2, 4, 32), 1, LARGE, MANY, False),
    ("gpu", (4,), 1, LARGE, MANY, False),
    # Each further part starts all operations anew.
    ("gpu", (1, 2, 4, 32), 1, 10**5, 10**12, False),
    # And has to be compiled.
    ("gpu", (1, 2, 4, 32), 1, LARGE, 1000, False),
    ("gpu", (1, 2, 4, 32), 4, LARGE, MANY, True),
  ],
)
def test_a_division_pays_where_much_is_computed(
  platform, bits, devices, client_bytes, steps, pays
):
  turns = np.resize(bits, 80 * devices)
  shares = np.split(turns, devices)
  found = sub_cohorts.divide(shares)
  assert sub_cohorts.pay(platform, found, 80, client_bytes, steps) is pays


def test_a_division_does_not_pay_where_devices_would_wait_for_each_other():
  shares = np.repeat([1, 32], 80).reshape(2, 80)
  found = sub_cohorts.divide(list(shares))
  assert not sub_cohorts.pay("gpu", found, 80, LARGE, MANY)


def simulate(method="quped", divided=True, bits=BITS, model="mlp", **settings):
  """A simulation of the tiny federation, divided or not."""
  how = {"strategy": "vmap", "devices": 1, **settings}
  hidden = {} if model == "mlp" else {"hidden": ()}
  made = tiny.make_settings(method, 5, bits=bits, model=model, **hidden)
  federation = tiny.make_federation()
  clients = build_clients(made, federation)
  built = build_method(made, federation, clients.models)
  used = []

  def for_levels(most):
    few = built.for_levels(most)

    def client_update(*args):
      used.append(most)
      return few.client_update(*args)

    return few.replace(client_update=client_update)

  simulation = make_simulation(
    built.method,
    federation,
    build_population(made, clients.assignment),
    clients.assignment.members(),
    for_levels=for_levels,
    divided=divided,
    **how,
  )
  return simulation, used


def played(made, most=(), rounds=2):
  """What it leads to, by the methods for so many levels and no other."""
  simulation, used = made
  state, metrics = simulation.run_rounds(simulation.init(0), rounds)
  assert simulation.program.compilations == 1
  assert sorted(set(used)) == sorted(most)
  return tiny.to_host(state), jax.device_get(metrics)


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    pytest.param({}, marks=pytest.mark.long),
    pytest.param(
      {"strategy": "chunks", "chunk_size": 1}, marks=pytest.mark.long
    ),
    pytest.param(
      {"strategy": "chunks", "chunk_size": 2}, marks=pytest.mark.long
    ),
    pytest.param({"devices": 2}, marks=pytest.mark.long),
    # Whose batch norm keeps statistics of the quantized model apart.
    {"model": "normed"},
  ],
)
def test_a_divided_cohort_gives_what_the_whole_gives(how):
  state, metrics = played(simulate(**how), most=MOST)
  want, want_metrics = played(simulate(divided=False, **how))
  assert tiny.largest_difference(state, want) < 1e-5
  assert tiny.largest_difference(metrics, want_metrics) < 1e-5
  np.testing.assert_array_equal(metrics["participants"], 5)


@pytest.mark.slow
@pytest.mark.parametrize(
  "method",
  [
    "fml",
    *(
      pytest.param(method, marks=pytest.mark.long)
      for method in ("fedavg", "qupel", "ditto", "local")
    ),
  ],
)
def test_methods_give_the_same_divided(method):
  state, _ = played(simulate(method), most=MOST)
  want, _ = played(simulate(method, divided=False))
  assert tiny.largest_difference(state, want) < 1e-5


@pytest.mark.slow
def test_states_of_divided_and_whole_cohorts_are_the_same_in_kind():
  (divided, _), (whole, _) = simulate(), simulate(divided=False)
  shapes = [s.shapes(False) for s in (divided, whole)]
  assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
  assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_changing_a_precision_recompiles_nothing_in_the_whole_program():
  made = tiny.assemble(
    tiny.make_settings("quped", 5, bits=BITS), tiny.make_federation()
  )
  made.play()
  bits = jnp.array([4, 4, 1, 32, 2])
  population = made.population._replace(spec=qj.methods.api.ClientSpec(bits))
  made.round_with(population)
  assert made.simulation.program.compilations == 1


@pytest.mark.slow
def test_a_run_with_other_precisions_gets_a_program_that_serves_it():
  divided, _ = simulate()
  federation, bits = tiny.make_federation(), (4, 4, 1, 32, 2)
  other = divided.over(federation, population_of(bits), Store())
  state, metrics = other.run_rounds(other.init(0), 1)
  assert metrics["participants"] == 5
  alone, _ = simulate(divided=False, bits=bits)
  want, _ = alone.run_rounds(alone.init(0), 1)
  assert tiny.largest_difference(tiny.to_host(state), tiny.to_host(want)) < 1e-5
  # Of the same precisions, the divided one.
  same = divided.over(federation, population_of(BITS), Store())
  assert same.program is divided.program


def population_of(bits):
  settings = tiny.make_settings("quped", 5, bits=bits)
  clients = build_clients(settings, tiny.make_federation())
  return build_population(settings, clients.assignment)


def test_runs_are_not_divided_where_only_some_take_part():
  settings = tiny.make_settings("quped", 5, bits=(1, 32), clients_per_round=2)
  federation = tiny.make_federation()
  clients = build_clients(settings, federation)
  built = build_method(settings, federation, clients.models)

  def for_levels(most):
    raise AssertionError(f"was asked for {most}")

  made = make_simulation(
    built.method,
    federation,
    build_population(settings, clients.assignment),
    clients.assignment.members(),
    for_levels=for_levels,
    divided=True,
  )
  assert made.layout.chunk_size == 1


def test_a_method_for_few_levels_is_told_the_same_otherwise():
  settings = dataclasses.replace(tiny.make_settings("quped", 5), bits=(1, 4))
  federation = tiny.make_federation()
  clients = build_clients(settings, federation)
  built = build_method(settings, federation, clients.models)
  few = built.for_levels(2)
  assert few.gradients == built.method.gradients
  assert few.primary_variant == built.method.primary_variant
