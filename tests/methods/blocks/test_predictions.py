import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import models
from quped_jax.methods.blocks import predictions
from tests import tiny


@pytest.fixture(scope="module")
def trained():
  federation = tiny.make_federation()
  model = models.create_model("mlp", tiny.CLASSES, features=(8,))
  params, stats = model.init(jax.random.key(3), federation.example())
  return federation, model, params, stats


@pytest.mark.parametrize("batch_size", [1, 7, 40, 500])
def test_logits_do_not_depend_on_how_many_are_seen_at_once(trained, batch_size):
  federation, model, params, stats = trained

  @jax.jit
  def predict(client, positions=None):
    data = federation.client(client)
    return predictions.predict(
      model, params, stats, data, positions, batch_size
    )

  # Of 64 samples at most, this client has 23.
  data = federation.client(jnp.int32(1))
  inputs = data.batch(jnp.arange(23)).inputs
  expected, _ = model.apply(params, stats, inputs, False)
  logits = predict(jnp.int32(1))
  chex.assert_shape(logits, (64, tiny.CLASSES))
  np.testing.assert_allclose(logits[:23], expected, atol=1e-5)
  np.testing.assert_allclose(
    logits[23:], np.tile(expected[-1], (41, 1)), atol=1e-5
  )
  rows = jnp.array([3, 3, 11, 22, 0, 7, 5, 1], jnp.int32)
  some = predict(jnp.int32(1), rows)
  np.testing.assert_allclose(some, expected[rows], atol=1e-5)


def test_trees_of_results_are_mapped_over_batches(trained):
  federation = trained[0]
  data = federation.client(jnp.int32(1))
  rows = jnp.arange(23)
  results = predictions.map_batches(
    lambda b: {"labels": b.labels, "sums": jnp.sum(b.inputs, axis=1)},
    data,
    rows,
    batch_size=5,
  )
  batch = data.batch(rows)
  np.testing.assert_array_equal(results["labels"], batch.labels)
  np.testing.assert_allclose(
    results["sums"], np.sum(batch.inputs, axis=1), rtol=1e-6
  )
