"""Federations of one shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.data import SyntheticSource
from quped_jax.data.federation import SPLITS
from quped_jax.data.padding import lengths_of, padded, shape_of
from quped_jax.data.synthetic_federation import synthetic_federation
from tests import tiny

COUNTS = ((5, 23, 40), (30, 9, 12), (7, 64, 11))


def federations():
  return [
    tiny.make_federation(counts, seed) for seed, counts in enumerate(COUNTS)
  ]


def kind(federation):
  return jax.eval_shape(lambda x: x, federation)


def test_padded_federations_have_one_shape_with_room_for_the_largest():
  made = [dataclasses.replace(x, public=None) for x in federations()]
  # The samples of a run are those of all: here they are not.
  made = [dataclasses.replace(x, source=made[0].source) for x in made]
  lengths = lengths_of(made)
  assert lengths.rows == {"train": 82, "validation": 1, "test": 60}
  assert lengths.most == {"train": 64, "validation": 0, "test": 20}
  assert kind(made[0]) != kind(made[1])
  assert len({str(kind(padded(x, lengths))) for x in made}) == 1
  assert len({shape_of(x) for x in made}) == 1
  # Of one alone nothing changes.
  one = made[1]
  tiny.assert_same_bits(padded(one, lengths_of([one])), one)
  assert kind(padded(one, lengths_of([one]))) == kind(one)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 3])
def test_a_padded_federation_draws_the_same_batches(batch_size):
  made = federations()
  lengths = lengths_of(made)

  @jax.jit
  def batches(federation, client, key):
    client = federation.client(client)
    positions = client.draw(key, 6, batch_size)
    return positions, jax.lax.map(client.batch, positions)

  for federation in made:
    for client in range(3):
      args = jnp.int32(client), jax.random.key(client)
      found = batches(padded(federation, lengths), *args)
      tiny.assert_same_bits(found, batches(federation, *args))


def test_what_no_padding_makes_alike_has_another_shape():
  one, *_ = federations()
  without = dataclasses.replace(one, public=None)
  fewer = one.first(2)
  named = dataclasses.replace(one, name="another")
  validated = dataclasses.replace(
    one, validation=dataclasses.replace(one.validation, max_count=1)
  )
  found = {shape_of(x) for x in (one, without, fewer, named, validated)}
  assert len(found) == 5


def test_samples_that_are_computed_need_no_tables():
  made = [
    synthetic_federation(SyntheticSource(seed), 4, validation_fraction=share)
    for seed, share in ((0, 0.1), (1, 0.3))
  ]
  assert shape_of(made[0]) == shape_of(made[1])
  lengths = lengths_of(made)
  assert lengths.rows == dict.fromkeys(SPLITS, 0)
  assert lengths.most == {"train": 90, "validation": 30, "test": 20}
  assert all(padded(x, lengths).train.rows is None for x in made)
  np.testing.assert_array_equal(padded(made[1], lengths).train.count, 70)
