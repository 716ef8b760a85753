"""Programs that serve the runs of several federations, one after the other."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data.federation import Federation
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.build_clients import build_population
from quped_jax.simulation.store import Store
from tests import tiny

COUNTS = ((5, 23, 40), (30, 9, 12), (7, 64, 11))
# What differs: seeds, samples, step sizes and chances.
CHANGES: list[dict[str, Any]] = [
  {},
  {"learning_rate": (0.3,), "participation": (0.9,)},
  {"learning_rate": (0.02,), "seed": 5},
]


@functools.cache
def federations() -> list[Federation]:
  """As of one dataset: they hold the same samples, or as many."""
  return [
    tiny.make_federation((*counts, 90 - sum(counts)), seed).first(3)
    for seed, counts in enumerate(COUNTS)
  ]


def settings_of(method, run, **how):
  changes = {"participation": (0.6,), "bits": (32,), **CHANGES[run], **how}
  return tiny.make_settings(method, 3, **changes)


def played(simulation, seed):
  state, metrics = simulation.run_rounds(simulation.init(seed), 2)
  table = simulation.evaluate(state)
  models = sorted(simulation.primary_models(state), key=lambda x: x.client_id)
  return simulation.export(state), metrics, table, models


HOW = {
  "one by one": {},
  "at once": {"strategy": "vmap"},
  "from the host": {"strategy": "dispatch", "chunk_size": 2},
  "two devices": {"devices": 2, "chunk_size": 2},
  "in host memory": {"client_state": "host"},
  "in blocks": {"client_state": "host", "clients_per_block": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    "one by one",
    "two devices",
    *(
      pytest.param(x, marks=pytest.mark.long)
      for x in HOW
      if x not in ("one by one", "two devices")
    ),
  ],
)
def test_one_set_of_programs_serves_the_runs_of_several_federations(how):
  """And each is the run that it is by itself; only the first compiles."""
  first, *others = federations()
  settings = settings_of("local", 0, **HOW[how])
  shared = make(settings, first, others)
  for run, federation in enumerate(federations()):
    settings = settings_of("local", run, **HOW[how])
    simulation = shared
    if run:
      store = Store(settings.client_state, None, settings.clients_per_block)
      simulation = shared.over(federation, build_population(settings), store)
      assert simulation.compile_seconds() == 0
    alone = make(settings, federation)
    found, expected = (played(x, settings.seed) for x in (simulation, alone))
    assert simulation.layout == alone.layout
    assert simulation.bytes_up == alone.bytes_up
    assert tiny.largest_difference(found, expected) < 1e-6
    assert (simulation.compile_seconds() > 0) == (run == 0)
  assert shared.program.compilations == 1


def make(settings, federation, others=()) -> qj.Simulation:
  return assemble(settings, federation=federation, others=others).simulation


@pytest.mark.slow
def test_with_fewer_clients_at_once_they_share_programs_too():
  first, *others = federations()
  settings = settings_of("local", 0, strategy="auto")
  shared = make(settings, first, others)
  assert shared.layout.chunk_size == 3
  fewer = []
  for run, federation in enumerate(federations()):
    settings = settings_of("local", run, strategy="auto")
    population = build_population(settings)
    simulation = shared.over(federation, population, Store())
    assert simulation.halved is not None
    fewer.append(simulation.halved())
    alone = make(settings, federation)
    found, expected = (played(x, settings.seed) for x in (fewer[-1], alone))
    assert tiny.largest_difference(found, expected) < 1e-6
  assert [x.layout.chunk_size for x in fewer] == [2, 2, 2]
  assert all(x.program is fewer[0].program for x in fewer)
  assert fewer[0].program.compilations == 1
  assert fewer[2].compile_seconds() == 0
  # One at a time there is nothing to halve.
  again = fewer[2].halved
  assert again is not None and again().halved is None


def test_data_of_another_shape_is_an_error():
  first, *others = federations()
  settings = settings_of("local", 0)
  shared = make(settings, first, others[:1])
  population = build_population(settings)
  for federation, given in (
    (first.first(2), population),
    (others[1], population),
    (first, build_population(settings_of("local", 0, participation=()))),
  ):
    with pytest.raises(ValueError, match="federation: must have the shape"):
      shared.over(federation, given, Store())


@pytest.mark.parametrize("devices", [1, 2])
def test_a_pool_of_samples_that_all_devices_hold_is_there_once(devices):
  first = tiny.make_federation((20, 30))
  rows = np.asarray(first.train.rows)[::-1].copy()
  second = dataclasses.replace(
    first, train=dataclasses.replace(first.train, rows=rows)
  )
  settings = tiny.make_settings(
    "local", 2, bits=(32,), devices=devices, chunk_size=1
  )
  shared = make(settings, first, [second])
  other = shared.over(second, build_population(settings), Store())

  def inputs(simulation):
    return simulation.init.__self__.data[0].source.inputs

  assert (inputs(shared) is inputs(other)) == (devices == 1)
  np.testing.assert_array_equal(
    jnp.sort(inputs(shared), axis=None), jnp.sort(inputs(other), axis=None)
  )


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"strategy": "vmap"}, {"chunk_size": 1}])
def test_the_formula_of_memory_holds_for_programs_that_serve_several(how):
  rng = np.random.default_rng(0)
  data = qj.from_arrays(
    rng.normal(size=(400, 28, 28, 1)).astype(np.float32),
    rng.integers(0, 10, 400),
    num_classes=10,
  )

  def divided(counts):
    rows = np.split(np.arange(320, dtype=np.int32), np.cumsum(counts)[:-1])
    parts = [x.astype(np.int32) for x in rows]
    nothing, test = parts[0][:0], np.arange(320, 400, dtype=np.int32)
    return qj.make_federation(
      data, qj.data.Partition(tuple(parts), (nothing,) * 8, (test,) * 8)
    )

  first, second = divided([40] * 8), divided([20] * 7 + [180])
  settings = tiny.make_settings(
    "quped", 8, bits=(2,), hidden=(200, 100), batch_size=32, **how
  )
  shared = make(settings, first, [second])
  store, population = Store(), build_population(settings)
  other = shared.over(second, population, store)
  other.run_rounds(other.init(0), 1)
  for simulation in (shared, other):
    measured = simulation.program.memory
    assert 0.75 * measured <= simulation.memory <= 1.25 * measured
