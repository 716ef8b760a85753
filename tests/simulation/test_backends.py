"""A third backend, written against the documented interface alone."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.simulation import simulation as simulation_lib
from quped_jax.simulation.blueprint import Blueprint
from quped_jax.simulation.layout import DIVIDED, SAME
from quped_jax.simulation.programs import STATE, Backend
from quped_jax.simulation.round import Engine
from tests import tiny


class Shelved(Backend):
  """Keeps all states in host memory, and runs one round per dispatch."""

  streams = False

  def __init__(self, blueprint: Blueprint):
    layout = blueprint.engine.layout
    slots = {c: layout.slots(len(m)) for c, m in blueprint.ids.items()}
    super().__init__(blueprint, slots)
    self.main = self.shard(
      self.given(Engine.rounds), (STATE, SAME, *self.data_specs), (STATE, SAME)
    )

  def _shelve(self, state):
    shelved = jax.device_get((state.clients, state.divergence))
    return state._replace(clients=shelved[0], divergence=shelved[1])

  def _fetch(self, state):
    clients, divergence = self.layout.place(
      (state.clients, state.divergence), DIVIDED
    )
    return state._replace(clients=clients, divergence=divergence)

  def init(self, seed):
    members = {c: self.members(m, c) for c, m in self.ids.items()}
    key = self.root_key(seed)
    return self._shelve(self.initialize(key, members, *self.data))

  def run_rounds(self, state, rounds):
    metrics, one = None, self.layout.place(jnp.int32(1), SAME)
    for _ in range(rounds):
      state, metrics = self.main(self._fetch(state), one, *self.data)
      state = self._shelve(state)
    return state, metrics

  def parts(self, state):
    yield self.ids, self._fetch(state)

  def restore(self, state):
    shared = "server", "members", "round", "monitor"
    moved = {name: jax.device_put(getattr(state, name)) for name in shared}
    key = jax.random.wrap_key_data(jnp.asarray(state.key))
    return state._replace(key=key, **moved)

  def begin_finetune(self, state):
    self.check_finetuning()
    fetched = self._fetch(state).clients
    clients = {c: self.freeze(x, self.data[1]) for c, x in fetched.items()}
    return self._shelve(state._replace(clients=clients))


def same(first, second):
  """Asserts that exported states hold the same numbers."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), first, second
  )


@pytest.fixture(scope="module")
def pair():
  """The simulations of a method: on the devices, and on the shelf."""
  expected = tiny.tiny("quped", bits=tiny.FEW).simulation
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(simulation_lib.BACKENDS, "device", Shelved)
    settings = tiny.make_settings("quped", len(tiny.COUNTS), bits=tiny.FEW)
    shelved = tiny.assemble(settings).simulation
  run_rounds = inspect.unwrap(shelved.run_rounds)
  assert isinstance(getattr(run_rounds, "__self__", None), Shelved)
  return expected, shelved


@pytest.mark.slow
def test_a_third_backend_runs_the_same_rounds(pair):
  states, tables = [], []
  for simulation in pair:
    state, metrics = simulation.run_rounds(simulation.init(3), 2)
    assert int(metrics["diverged"]) == 0
    states.append(simulation.export(state))
    tables.append(simulation.evaluate(state))
  same(*states)
  assert int(states[0].round) == 2
  same(*tables)


@pytest.mark.slow
def test_a_third_backend_goes_on_from_anothers_export(pair):
  resident, shelved = pair
  state, _ = resident.run_rounds(resident.init(3), 1)
  saved = resident.export(state)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), saved)
  assert shapes == jax.tree.map(
    lambda x: (x.shape, x.dtype), shelved.shapes(False)
  )
  ends = []
  for simulation in pair:
    state = simulation.restore(saved)
    state, _ = simulation.run_rounds(simulation.begin_finetune(state), 1)
    models = sorted(simulation.primary_models(state), key=lambda m: m.client_id)
    ends.append((simulation.export(state), [m.params for m in models]))
  same(*ends)


def test_a_backend_provides_everything_that_is_abstract():
  class Unfinished(Backend):
    streams = False

  with pytest.raises(TypeError, match="abstract method"):
    Unfinished(None, {})  # pyright: ignore
