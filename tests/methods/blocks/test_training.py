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
