import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.build_clients import build_population
from quped_jax.simulation import memory
from tests import tiny


def test_bytes_of_arrays_and_of_shapes():
  shape = jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)
  assert memory.nbytes({"a": np.zeros((5,), np.uint8), "b": shape}) == 29
  assert memory.nbytes(()) == 0


def test_a_step_of_a_linear_layer_by_hand():
  model = qj.create_model("mlp", 3, features=(5, 5))
  inputs = jax.ShapeDtypeStruct((8, 4), jnp.float32)
  count = 4 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3
  outputs = 4 * 8 * (5 + 5 + 3)
  plain = memory.step_bytes(model, inputs, own=0, download=0, quantized=False)
  # Gradients, and twice the layers' outputs, or if that is more, what is kept:
  # the inputs of three layers, and masks of two relus.
  assert 4 * count + 2 * outputs <= plain
  assert plain <= 4 * count + 2 * outputs + 4 * 8 * (4 + 4 * 5)
  both = memory.step_bytes(
    model, inputs, own=4 * count, download=4 * count, quantized=False
  )
  assert both > plain
  quantized = memory.step_bytes(
    model, inputs, own=0, download=0, quantized=True
  )
  assert quantized == plain + memory.QUANTIZED_COPIES * 4 * 25


def test_room_is_what_the_total_says():
  estimate = memory.Estimate(
    data=1000, server=100, own=5, download=20, message=20, step=60, kept=5
  )
  assert estimate.total(10, 10) == 1100 + 50 + 10 * 85
  assert estimate.total(10, 2) == 1100 + 50 + 20 + 2 * 85
  assert estimate.room_for(10, estimate.total(10, 10)) == 10
  for at_once in range(1, 9):
    limit = estimate.total(10, at_once)
    assert estimate.room_for(10, limit) == at_once
    assert estimate.room_for(10, limit - 1) == at_once - 1
  assert estimate.room_for(10, 0) == 0


VMAP, FOUR, ONE = {"strategy": "vmap"}, {"chunk_size": 4}, {"chunk_size": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "bits", "how", "model", "batch_size"),
  [
    ("local", 32, ONE, "cnn1", 16),
    ("quped", 1, VMAP, "mlp", 32),
    *(
      pytest.param(*case, marks=pytest.mark.long)
      for case in [
        ("fedavg", 32, FOUR, "mlp", 128),
        ("local", 32, VMAP, "mlp", 128),
        ("fedavg", 32, ONE, "mlp", 32),
        ("quped", 32, VMAP, "mlp", 32),
        ("quped", 4, VMAP, "mlp", 32),
        ("quped", 1, ONE, "cnn1", 16),
      ]
    ),
  ],
)
def test_the_formula_holds_to_a_quarter(method, bits, how, model, batch_size):
  clients = 8
  rng = np.random.default_rng(0)
  rows = np.arange(clients * 20, dtype=np.int32).reshape(clients, 20)
  data = qj.from_arrays(
    rng.normal(size=(rows.size, 28, 28, 1)).astype(np.float32),
    rng.integers(0, 10, rows.size),
    num_classes=10,
  )
  parts = qj.data.Partition(
    tuple(rows[:, :12]), tuple(rows[:, :0]), tuple(rows[:, 12:])
  )
  federation = qj.make_federation(data, parts)
  settings = tiny.make_settings(
    method,
    clients,
    bits=(bits,),
    model=model,
    hidden=(200, 100) if model == "mlp" else (),
    batch_size=batch_size,
    **how,
  )
  simulation, _, _ = qj.build(settings, federation=federation)
  state = simulation.init(0)
  simulation.program.compile(
    state, jnp.int32(1), federation, build_population(settings)
  )
  measured = simulation.program.memory
  assert 0.75 * measured <= simulation.memory <= 1.25 * measured


@pytest.mark.slow
def test_memory_does_not_grow_beyond_one_copy_of_all_state():
  clients = 200
  settings = qj.Settings(
    dataset="synthetic",
    clients=clients,
    hidden=(200, 100),
    method="local",
    bits=(32,),
    devices=1,
    steps=2,
    chunk_size=1,
    strategy="chunks",
  )
  simulation, federation, _ = qj.build(settings)
  state = simulation.init(0)
  own = memory.nbytes(state.clients)
  simulation.program.compile(
    state, jnp.int32(1), federation, build_population(settings)
  )
  without_data = simulation.program.memory - memory.nbytes(federation)
  assert without_data <= 1.1 * own


@pytest.mark.slow
def test_chunks_of_a_fifth_leave_at_most_1_6_copies_of_all_state():
  clients = 1000

  def copies(size):
    settings = qj.Settings(
      dataset="synthetic",
      synthetic_shape=(64,),
      clients=clients,
      hidden=(64, 64),
      method="local",
      bits=(32,),
      devices=1,
      batch_size=16,
      strategy="chunks",
      chunk_size=size,
    )
    simulation, federation, _ = qj.build(settings)
    state = simulation.init(0)
    simulation.program.compile(
      state, jnp.int32(1), federation, build_population(settings)
    )
    data = memory.nbytes(federation)
    own = memory.nbytes(state.clients)
    estimated = (simulation.memory - simulation.data_bytes) / own
    measured = (simulation.program.memory - data) / own
    assert 0.75 * measured <= estimated <= 1.25 * measured
    return measured

  assert copies(clients) > 3
  assert copies(200) <= 1.6
