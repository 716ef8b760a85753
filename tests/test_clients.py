import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import clients

COUNT = 7


def step(client_id, state):
  """A step that shows who ran, on what, and how often."""
  new = {"x": 2 * state["x"] + client_id, "n": state["n"] + 1}
  return new, (state["x"] * (client_id + 1), jnp.float32(1))


def fresh():
  x = jnp.arange(COUNT * 3, dtype=jnp.float32).reshape(COUNT, 3)
  return {"x": x, "n": jnp.zeros(COUNT, jnp.int32)}


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 9])
def test_every_client_runs_once_on_its_own_state(chunk_size):
  ids = jnp.arange(10, 10 + COUNT)
  states, (total, number) = jax.jit(
    lambda s: clients.run_clients(step, ids, s, chunk_size=chunk_size)
  )(fresh())
  x = np.asarray(fresh()["x"])
  np.testing.assert_array_equal(states["x"], 2 * x + np.asarray(ids)[:, None])
  np.testing.assert_array_equal(states["n"], np.ones(COUNT))
  expected = (x * (np.asarray(ids)[:, None] + 1)).sum(axis=0)
  np.testing.assert_array_equal(total, expected)
  assert number == COUNT


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])
def test_only_participants_run(chunk_size):
  positions = jnp.array([0, 3, 4, 6])
  ids = jnp.array([20, 23, 24, 26])
  states, (total, number) = jax.jit(
    lambda s: clients.run_clients(
      step, ids, s, chunk_size=chunk_size, positions=positions
    )
  )(fresh())
  x = np.asarray(fresh()["x"])
  expected = x.copy()
  expected[positions] = 2 * x[positions] + np.asarray(ids)[:, None]
  np.testing.assert_array_equal(states["x"], expected)
  assert states["n"].tolist() == [1, 0, 0, 1, 1, 0, 1]
  np.testing.assert_array_equal(
    total, (x[positions] * (np.asarray(ids)[:, None] + 1)).sum(axis=0)
  )
  assert number == 4


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7])
def test_mapping_stacks_the_outputs_in_order(chunk_size):
  ids = jnp.arange(10, 10 + COUNT)
  outputs = clients.map_clients(
    lambda i, s: {"sum": i + jnp.sum(s["x"])},
    ids,
    fresh(),
    chunk_size=chunk_size,
  )
  expected = np.asarray(ids) + np.asarray(fresh()["x"]).sum(axis=1)
  np.testing.assert_array_equal(outputs["sum"], expected)


def test_chunks_hold_less_in_memory_than_all_clients_at_once():
  def wide(client_id, state):
    big = jnp.outer(state["x"], jnp.arange(4096.0) + client_id)
    return state, jnp.sum(jnp.sin(big) @ jnp.cos(big).T)

  def temporaries(chunk_size):
    states = {"x": jnp.ones((32, 64))}
    run = jax.jit(
      lambda s: clients.run_clients(
        wide, jnp.arange(32), s, chunk_size=chunk_size
      )
    )
    analysis = run.lower(states).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes

  assert temporaries(2) < temporaries(32) / 4


def test_strategies_decide_how_many_run_at_once():
  resolve = clients.resolve_chunk_size
  assert resolve("vmap", 3, 40) == 40
  assert resolve("chunks", 3, 40) == 3
  assert resolve("chunks", 50, 40) == 40
  on_cpu = jax.default_backend() == "cpu"
  assert resolve("auto", 3, 40) == (1 if on_cpu else 40)


@pytest.mark.parametrize(
  ("strategy", "chunk_size", "message"),
  [
    ("pmap", 1, "strategy='pmap': must be one of auto, vmap, chunks"),
    ("chunks", 0, "chunk_size=0: must be at least 1"),
  ],
)
def test_wrong_strategies_are_errors(strategy, chunk_size, message):
  with pytest.raises(ValueError, match=message):
    clients.resolve_chunk_size(strategy, chunk_size, 4)
