import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.simulation import client_axis
from quped_jax.simulation import layout as layout_lib

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
    lambda s: client_axis.run_clients(step, ids, s, chunk_size=chunk_size)
  )(fresh())
  x = np.asarray(fresh()["x"])
  np.testing.assert_array_equal(states["x"], 2 * x + np.asarray(ids)[:, None])
  np.testing.assert_array_equal(states["n"], np.ones(COUNT))
  expected = (x * (np.asarray(ids)[:, None] + 1)).sum(axis=0)
  np.testing.assert_array_equal(total, expected)
  assert number == COUNT


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("present", [(0, 3, 4, 6), (2,), ()])
def test_only_participants_run(chunk_size, present):
  ids = jnp.arange(20, 20 + COUNT)
  mask = np.zeros(COUNT, bool)
  mask[list(present)] = True

  @jax.jit
  def run(states, mask):
    chosen = client_axis.choose(mask, most=4)
    return client_axis.run_clients(
      step, ids, states, chunk_size=chunk_size, chosen=chosen
    )

  states, (total, number) = run(fresh(), mask)
  x = np.asarray(fresh()["x"])
  moved = 2 * x + np.asarray(ids)[:, None]
  np.testing.assert_array_equal(states["x"], np.where(mask[:, None], moved, x))
  np.testing.assert_array_equal(states["n"], mask)
  sent = x * (np.asarray(ids)[:, None] + 1)
  np.testing.assert_array_equal(total, sent[mask].sum(axis=0))
  assert number == len(present)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_nobody_runs_where_at_most_one_could_and_none_is_present(chunk_size):
  ids = jnp.full(1, -1)
  states = jax.tree.map(lambda x: x[:1], fresh())
  chosen = client_axis.choose(ids >= 0, most=1)
  new, (_, number) = client_axis.run_clients(
    step, ids, states, chunk_size=chunk_size, chosen=chosen
  )
  assert number == 0 and new["n"].tolist() == [0]


def test_what_absent_clients_would_send_is_not_summed():
  def broken(client_id, state):
    return state, jnp.where(client_id == 2, 1.0, jnp.nan)

  ids = jnp.arange(COUNT)
  chosen = client_axis.choose(ids == 2, most=3)
  _, total = client_axis.run_clients(
    broken, ids, fresh(), chunk_size=3, chosen=chosen
  )
  assert total == 1


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
@pytest.mark.parametrize("present", [None, (0, 3, 4, 6), ()])
def test_chunks_one_after_the_other_are_the_loop(chunk_size, present):
  ids = jnp.arange(COUNT)
  mask = np.isin(ids, present)
  chosen = None if present is None else client_axis.choose(mask, most=5)
  expected = client_axis.run_clients(
    step, ids, fresh(), chunk_size=chunk_size, chosen=chosen
  )
  parts, size, _ = client_axis.divide(COUNT, chunk_size, chosen)
  states, sums = fresh(), client_axis.zero_output(step, ids, fresh())
  for index in range(-(-COUNT // size)):  # Beyond the last one, too.
    states, part = client_axis.run_chunk(
      step, ids, states, index, size=size, chosen=parts
    )
    sums = jax.tree.map(jnp.add, sums, part)
  jax.tree.map(np.testing.assert_array_equal, (states, sums), expected)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("count", [7, 8])
def test_each_device_runs_its_own_clients(devices, count):
  layout = layout_lib.resolve_layout("chunks", 2, count, devices=devices)
  assert layout.devices == devices
  slots = layout.slots(count)
  assert slots >= count and slots % devices == 0
  ids = np.append(np.arange(count), np.full(slots - count, -1))
  states = {
    "x": jnp.ones((slots, 3)).at[:, 0].set(jnp.arange(slots)),
    "n": jnp.zeros(slots, jnp.int32),
  }

  def run(ids, states):
    chosen = client_axis.choose(ids >= 0, most=ids.shape[0])
    states, sums = client_axis.run_clients(
      step, ids, states, chunk_size=layout.chunk_size, chosen=chosen
    )
    return states, layout.sum(sums)

  spec = jax.sharding.PartitionSpec(layout_lib.AXIS)
  run = jax.jit(layout.shard(run, spec, (spec, jax.sharding.PartitionSpec())))
  placed = layout.place((jnp.asarray(ids), states), spec)
  new, (total, number) = run(*placed)
  assert number == count
  assert new["n"].tolist() == [1] * count + [0] * (slots - count)
  expected = [sum(range(count)) + sum(i * i for i in range(count))]
  np.testing.assert_array_equal(
    total, expected + [count * (count + 1) // 2] * 2
  )


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7])
def test_mapping_stacks_the_outputs_in_order(chunk_size):
  ids = jnp.arange(10, 10 + COUNT)
  outputs = client_axis.map_clients(
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
      lambda s: client_axis.run_clients(
        wide, jnp.arange(32), s, chunk_size=chunk_size
      )
    )
    analysis = run.lower(states).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes

  assert temporaries(2) < temporaries(32) / 4
