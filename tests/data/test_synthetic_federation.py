"""Federations whose samples are made when they are drawn."""

import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.data import SyntheticSource
from quped_jax.data.federation import Split
from quped_jax.data.synthetic_federation import synthetic_federation


def test_a_synthetic_federation_draws_what_its_source_makes():
  source = SyntheticSource(3, train_samples=40, test_samples=10)
  federation = synthetic_federation(source, 6, validation_fraction=0.25)
  assert federation.num_clients == 6
  assert federation.num_classes == source.num_classes
  data = federation.client(jnp.int32(4))
  firsts = {"train": (0, 30), "validation": (30, 10), "test": (40, 10)}
  for split, (first, count) in firsts.items():
    part: Split = getattr(data, split)
    assert int(part.count) == part.max_count == count
    batch = data.batch(jnp.arange(2), split)
    inputs, labels = source.draw(4, jnp.arange(first, first + 2))
    np.testing.assert_array_equal(batch.inputs, inputs)
    np.testing.assert_array_equal(batch.labels, labels)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_a_synthetic_federation_keeps_training_samples(fraction):
  with pytest.raises(ValueError, match="validation_fraction=.*must be in"):
    synthetic_federation(SyntheticSource(0), 2, validation_fraction=fraction)
