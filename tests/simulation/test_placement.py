import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import Partition, SyntheticSource
from quped_jax.data.synthetic_federation import synthetic_federation
from quped_jax.simulation import placement
from quped_jax.simulation.layout import Layout


def from_parts(train, test=None):
  """A federation whose inputs are their own row numbers."""
  inputs = np.arange(100, dtype=np.float32)[:, None]
  train = tuple(np.asarray(rows, np.int32) for rows in train)
  nothing = tuple(np.zeros(0, np.int32) for _ in train)
  return qj.make_federation(
    qj.from_arrays(inputs, np.arange(100) % 3, std=1.0),
    Partition(train, nothing, train if test is None else test),
  )


class Watched(np.ndarray):
  """Inputs that remember which rows were read."""

  read: set[int]

  def __getitem__(self, rows):
    if isinstance(rows, np.ndarray):
      self.read.update(rows.tolist())
    return np.asarray(self)[rows]


def test_each_device_gets_the_samples_of_its_clients():
  devices = jax.devices()[:3]
  layout = Layout(jax.sharding.Mesh(np.array(devices), ("clients",)), 1)
  parts = [[3, 1], [50, 99, 1], [7], [80, 81, 82, 83, 84]]
  test = tuple(np.array([i + 10], np.int32) for i in range(4))
  federation = from_parts(parts, test=test)
  inputs = federation.source.inputs.view(Watched)
  inputs.read = set()
  source = dataclasses.replace(federation.source, inputs=inputs)
  federation = dataclasses.replace(federation, source=source)
  groups = [np.array([0, 1]), np.array([3]), np.array([], int)]
  placed, specs = placement.place(federation, layout, groups)
  # Client 2 is on no device.
  assert inputs.read == {3, 1, 50, 99, 80, 81, 82, 83, 84, 10, 11, 13}
  held = [shard.data for shard in placed.source.inputs.addressable_shards]
  assert [x.shape for x in held] == [(6, 1)] * 3
  assert np.ravel(held[0]).tolist() == [1, 3, 10, 11, 50, 99]
  assert np.ravel(held[1]).tolist() == [13, 80, 81, 82, 83, 84]

  def samples(ids, federation):
    def of(i, split):
      return federation.client(i).batch(jnp.arange(5), split).inputs[..., 0]

    return jax.vmap(lambda i: (of(i, "train"), of(i, "test")))(ids)

  spec = jax.sharding.PartitionSpec("clients")
  drawn = jax.jit(layout.shard(samples, (spec, specs), spec))
  train, tested = drawn(jnp.array([0, 1, 3, 3, 0, 0]), placed)
  for i, client in enumerate([0, 1, 3]):
    assert train[i, : len(parts[client])].tolist() == parts[client]
    assert tested[i, 0] == client + 10
  assert placed.train.count.tolist() == [2, 3, 0, 5]
  assert placed.train.max_count == 5


def test_similar_federations_have_samples_of_the_same_shape():
  devices = jax.devices()[:2]
  layout = Layout(jax.sharding.Mesh(np.array(devices), ("clients",)), 1)
  groups = [np.array([0]), np.array([1])]
  shapes = set()
  for sizes in ((38, 37), (33, 40), (40, 34)):
    starts = (0, sizes[0])
    parts = [range(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    placed, _ = placement.place(from_parts(parts), layout, groups)
    assert placed.train.rows is not None
    shapes.add((placed.source.inputs.shape, placed.train.rows.shape))
  assert shapes == {((2 * 40, 1), (2 * 40,))}


@pytest.mark.parametrize("groups", [None, [np.array([0]), np.array([1])]])
def test_what_is_made_when_it_is_drawn_is_everywhere(groups):
  layout = Layout(
    jax.sharding.Mesh(np.array(jax.devices()[:2]), ("clients",)), 1
  )
  federation = synthetic_federation(SyntheticSource(0), 2)
  placed, specs = placement.place(federation, layout, groups)
  assert specs == jax.sharding.PartitionSpec()
  offset = placed.train.offset
  assert isinstance(offset, jax.Array) and offset.is_fully_replicated
