import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from tests import tiny


@pytest.mark.slow
def test_recalibrated_statistics_are_those_of_the_batch():
  settings = tiny.make_settings(
    "local", 2, model="normed", hidden=(), recalibration_batches=1
  )
  training = make_training(settings)
  model = qj.create_model("normed", tiny.CLASSES)
  federation = tiny.make_federation((30, 40))
  params, stats = model.init(jax.random.key(0), federation.example())
  data = federation.client(jnp.int32(1))
  key = jax.random.key(5)
  context = api.Context(0, key, 1, None, None, None)

  @jax.jit
  def recalibrated(bits):
    learner = training.learner(model, params, stats, bits)
    return training.quantized_variant(model, learner, data, context)[:2]

  _, found = recalibrated(2)
  (position,) = data.draw(key, 1, settings.batch_size)
  first = params["first"]
  outputs = data.batch(position).inputs @ first["kernel"] + first["bias"]
  got = found["BatchNorm_0"]
  np.testing.assert_allclose(got["mean"], outputs.mean(0), atol=1e-5)
  np.testing.assert_allclose(got["var"], outputs.var(0), rtol=1e-4)
  # At full precision there is nothing to estimate again.
  _, found = recalibrated(32)
  jax.tree.map(np.testing.assert_array_equal, found, stats)


@pytest.mark.slow
def test_recalibration_leaves_a_client_of_full_precision_alone():
  """Q is the identity at 32 bits, also in company and with batch norm."""

  class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      x = nn.Dense(6, name="first")(x)
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = nn.Dense(6, name="hidden")(nn.relu(x))
      return nn.Dense(3, name="last")(x)

  rng = np.random.default_rng(0)
  dataset = qj.from_arrays(
    rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
  )
  parts = qj.partition(dataset, "iid", 2)
  settings = qj.Settings(
    method="local", clients=2, bits=(1, 32), rounds=1, steps=3, batch_size=5
  )
  result = qj.run(
    settings,
    federation=qj.make_federation(dataset, parts),
    model=qj.from_linen(Normed(), "normed"),
    display=qj.Display(quiet=True),
  )
  learner = qj.client_state(result.state, 1)
  data = qj.make_federation(dataset, parts).client(jnp.int32(1))
  context = api.Context(0, jax.random.key(0), 1, None, None, None)
  training = make_training(settings)
  model = qj.from_linen(Normed(), "normed")
  _, stats, _ = training.quantized_variant(model, learner, data, context)
  jax.tree.map(np.testing.assert_array_equal, stats, learner.quantized_stats)
  quantized = qj.client_state(result.state, 0)
  data = qj.make_federation(dataset, parts).client(jnp.int32(0))
  _, stats, _ = training.quantized_variant(model, quantized, data, context)
  assert tiny.largest_difference(stats, quantized.quantized_stats) > 1e-3


class Odd(nn.Module):
  """Statistics that are no exponential averages, beside one that is."""

  @nn.compact
  def __call__(self, inputs, train: bool):
    x = nn.Dense(6, name="first")(inputs)
    steps = self.variable("batch_stats", "steps", jnp.zeros, ())
    whole = self.variable("batch_stats", "whole", jnp.zeros, (), jnp.int32)
    if train and not self.is_initializing():
      steps.value += 1.0
      whole.value += 1
    x = nn.BatchNorm(use_running_average=True, name="frozen")(x)
    x = nn.Dense(6, name="hidden_1")(nn.relu(x))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="own")(x)
    return nn.Dense(tiny.CLASSES, name="last")(x)


@pytest.mark.slow
def test_only_exponential_averages_are_estimated_again():
  settings = tiny.make_settings("local", 2, recalibration_batches=7)
  training = make_training(settings)
  model = qj.from_linen(Odd(), "odd")
  federation = tiny.make_federation((30, 40))
  params, stats = model.init(jax.random.key(0), federation.example())
  stats["frozen"]["var"] = stats["frozen"]["var"] + 1.5
  stats["steps"] = jnp.float32(12.0)
  data = federation.client(jnp.int32(1))
  context = api.Context(0, jax.random.key(5), 1, None, None, None)
  learner = training.learner(model, params, stats, jnp.int32(1))
  _, found, _ = training.quantized_variant(model, learner, data, context)
  for name in ("frozen", "steps", "whole"):
    jax.tree.map(np.testing.assert_array_equal, found[name], stats[name])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
  assert tiny.largest_difference(found["own"], stats["own"]) > 1e-2
