import jax
import jax.numpy as jnp
import pytest

from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.given_state import check_state
from tests import tiny


def made(clients=3, **changes):
  settings = tiny.make_settings("fedavg", clients, rounds=3, **changes)
  federation = tiny.make_federation(tiny.COUNTS[:clients])
  return assemble(settings, federation=federation)


@pytest.fixture(scope="module")
def given():
  """A run, and a state of it."""
  run = made()
  return run, run.simulation.init(0)


def with_kernel(state, change):
  model = state.server.model
  params = {**model.params, "last": jax.tree.map(change, model.params["last"])}
  server = state.server._replace(model=model._replace(params=params))
  return state._replace(server=server)


@pytest.mark.slow
def test_a_state_of_the_run_is_fine(given):
  run, state = given
  check_state(run, state)
  check_state(run, None)
  check_state(made(devices=2), state)  # In as many slots as there were.


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x: x.astype(jnp.float16), "is float16 .* must be float32"),
    (lambda x: x.astype(jnp.int32), "is int32 .* must be float32"),
    (lambda x: x[..., :2], r"must be float32 \[4\]"),
    (lambda x: x + jnp.nan, "must be finite"),
  ],
)
def test_another_type_shape_or_nan_is_refused(given, change, message):
  run, state = given
  with pytest.raises(ValueError, match=f"state.server: .*{message}"):
    check_state(run, with_kernel(state, change))


@pytest.mark.slow
def test_clients_of_another_run_are_refused(given):
  _, state = given
  with pytest.raises(ValueError, match="state.clients: .* 5 in .*; got 3"):
    check_state(made(5), state)
  with pytest.raises(ValueError, match="state.clients: .*centers"):
    check_state(made(bits=(3, 4)), state)


def test_rounds_that_are_over_are_refused(given):
  run, state = given
  with pytest.raises(ValueError, match="rounds=3: must be more than 3"):
    check_state(run, state._replace(round=jnp.int32(3)))
