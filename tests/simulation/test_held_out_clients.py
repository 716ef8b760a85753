import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from quped_jax.simulation.evaluate import score
from tests import tiny

QUIET = qj.Display(quiet=True)


def made(method="fedavg", **changes):
  values = {
    "bits": (32,),
    "held_out_clients": 2,
    "held_out_client_steps": 0,
    **changes,
  }
  settings = tiny.make_settings(method, 3, **values)
  return assemble(settings, federation=tiny.make_federation())


@pytest.mark.slow
def test_without_steps_they_get_the_global_model_itself():
  assembly = made()
  simulation = assembly.simulation
  state, _ = simulation.run_rounds(simulation.init(0), 2)
  table = assembly.evaluate_held_out(state)
  assert set(table) == {"personalized", "quantized"}
  for i, value in enumerate(table["personalized"]):
    model = state.server.model
    data = assembly.federation.client(jnp.int32(3 + i))
    expected = score(assembly.model, model.params, model.stats, data, "test")
    np.testing.assert_allclose(value, expected)


@pytest.mark.slow
def test_steps_on_their_own_data_help_and_depend_on_nothing_else():
  tables = []
  for devices in (1, 2):
    assembly = made(held_out_client_steps=40, devices=devices)
    simulation = assembly.simulation
    state = simulation.init(0)
    tables.append(assembly.evaluate_held_out(state)["personalized"])
    # The initial model knows nothing: forty steps teach it.
    assert tables[-1].mean() > 0.6
  np.testing.assert_allclose(tables[0], tables[1], atol=0.051)


@pytest.mark.slow
def test_they_have_precisions_in_turn_and_levels_of_their_own():
  assembly = made("quped", bits=(32, 32, 32, 32, 1), held_out_client_steps=3)
  bits = assembly.assignment.bits
  assert bits.tolist() == [32, 32, 32, 32, 1]
  table = assembly.evaluate_held_out(assembly.simulation.init(0))
  assert np.isfinite(table["quantized"]).all()


def test_a_method_without_a_global_model_has_nothing_for_them():
  assembly = made("local")
  assert assembly.evaluate_held_out(assembly.simulation.init(0)) == {}


@pytest.mark.slow
def test_they_take_no_part_in_training():
  with_new, without = (
    tiny.assemble(
      tiny.make_settings("fedavg", 3, bits=(32,), held_out_clients=new),
      federation=federation,
    )
    for new, federation in (
      (2, tiny.make_federation()),
      (0, tiny.make_federation(tiny.COUNTS[:3])),
    )
  )
  ends = [
    tiny.to_host(m.simulation.run_round(m.simulation.init(0))[0])
    for m in (with_new, without)
  ]
  assert tiny.largest_difference(ends[0].server, ends[1].server) < 1e-6


@pytest.mark.slow
def test_a_run_reports_them():
  settings = tiny.make_settings(
    "fedavg",
    3,
    bits=(32,),
    held_out_clients=2,
    rounds=2,
    held_out_client_steps=2,
  )
  result = qj.run(settings, federation=tiny.make_federation(), display=QUIET)
  spread = result.summary["held_out_clients"]["personalized"]
  assert 0 <= spread["worst"] <= spread["mean"] <= 1
  assert len(result.clients) == 3


def test_their_number_must_fit_the_federation():
  settings = tiny.make_settings("fedavg", 3, held_out_clients=1)
  with pytest.raises(ValueError, match=r"clients=3: must be 4, so that with"):
    qj.build(settings, federation=tiny.make_federation())
  with pytest.raises(
    ValueError, match="held_out_clients=-1: must be at least 0"
  ):
    dataclasses.replace(settings, held_out_clients=-1)


@pytest.mark.slow
def test_without_steps_their_quantized_model_has_the_servers_statistics():
  """As that of clients that train: it is the same shared model."""
  assembly = made(
    "fedavg",
    bits=(1, 2),
    model="normed",
    hidden=(),
    # Estimated again on its own data, nothing would depend on the server's.
    recalibration_batches=10,
  )
  state, _ = assembly.simulation.run_rounds(assembly.simulation.init(0), 2)
  before = assembly.evaluate_held_out(state)
  model = state.server.model
  held = model.quantized_stats
  other = held._replace(values=jax.tree.map(jnp.ones_like, held.values))
  server = state.server._replace(model=model._replace(quantized_stats=other))
  after = assembly.evaluate_held_out(state._replace(server=server))
  np.testing.assert_array_equal(before["personalized"], after["personalized"])
  assert not np.array_equal(before["quantized"], after["quantized"])
