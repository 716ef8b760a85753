"""Protocols of publications, in settings; nothing is trained."""

import jax
import jax.numpy as jnp
import numpy as np

import quped_jax as qj
from quped_jax.experiment.assemble import assemble
from quped_jax.experiment.training import make_schedule

# What Flower's baseline niid_bench does on MNIST.
NIID_BENCH = qj.Settings(
  dataset="mnist",
  clients=10,
  partition="dirichlet",
  alpha=0.5,
  self_balancing=True,
  method="fedavg",
  model="cnn1",
  hidden=(6, 16, 120, 84),
  padding="valid",
  bits=32,
  rounds=50,
  epochs=10,
  epochs_of="each",
  batch_size=64,
  optimizer="momentum",
  momentum=0.9,
  weight_decay=1e-5,
  learning_rate=0.01,
  metrics="accuracy",
)
COUNTS = (30, 64, 127, 128, 200, 640, 641, 100, 90, 80)


def like_mnist():
  """Images of MNIST's shape, of which clients have so many."""
  size = sum(COUNTS) + len(COUNTS)
  data = qj.from_arrays(
    np.zeros((size, 28, 28, 1), np.uint8), np.arange(size) % 10
  )
  ends = np.cumsum([count + 1 for count in COUNTS])
  rows = [
    np.arange(end - count - 1, end)
    for end, count in zip(ends, COUNTS, strict=True)
  ]
  nothing = tuple(np.zeros(0, int) for _ in COUNTS)
  parts = qj.data.Partition(
    tuple(own[:-1] for own in rows), nothing, tuple(own[-1:] for own in rows)
  )
  return qj.make_federation(data, parts)


def test_niid_bench_can_be_said_in_settings():
  made = assemble(NIID_BENCH, federation=like_mnist())
  params, stats = jax.eval_shape(
    made.model.init, jax.random.key(0), made.federation.example()
  )
  assert sum(x.size for x in jax.tree.leaves(params)) == 44_426
  assert not jax.tree.leaves(stats)
  assert made.simulation.bytes_up == made.simulation.bytes_down == 4 * 44_426
  # Ten epochs of each client's own batches of 64.
  steps = [10, 10, 10, 20, 30, 100, 100, 10, 10, 10]
  own = made.population.participation.own_steps
  assert own is not None and own.tolist() == steps
  assert made.settings.steps == 100
  assert made.simulation.gradients == np.mean(steps)


def test_its_step_size_is_the_same_in_every_round():
  made = assemble(NIID_BENCH, federation=like_mnist())
  _, base = made.population.of_client(3)
  for round_ in (0, 49):
    rates, _ = make_schedule(NIID_BENCH).rates(
      base, made.population.shared_learning_rate, jnp.int32(round_), None
    )
    assert float(rates.learning_rate) == np.float32(0.01)
