import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import Partition
from tests import tiny


def from_parts(train, samples=100, test=None, augment="none", **dataset):
  """A federation whose inputs are their own row numbers."""
  inputs = np.arange(samples, dtype=np.float32)[:, None]
  labels = np.arange(samples) % 3
  train = tuple(np.asarray(rows, np.int32) for rows in train)
  test = train if test is None else test
  nothing = tuple(np.zeros(0, np.int32) for _ in train)
  return qj.make_federation(
    qj.from_arrays(inputs, labels, **{"std": 1.0, **dataset}),
    Partition(train, nothing, test),
    augment=augment,
  )


def drawn(federation, client, steps, batch_size, seed=0):
  @jax.jit
  def draw(federation, client, key):
    return federation.client(client).draw(key, steps, batch_size)

  return np.asarray(draw(federation, jnp.int32(client), jax.random.key(seed)))


@pytest.mark.parametrize(
  ("count", "batch_size"), [(8, 8), (23, 8), (16, 4), (15, 8), (9, 1)]
)
def test_every_epoch_is_a_permutation_without_its_last_partial_batch(
  count, batch_size
):
  federation = from_parts([range(count), range(60, 90)])
  per_epoch = count // batch_size
  positions = drawn(federation, 0, 3 * per_epoch, batch_size)
  epochs = positions.reshape(3, per_epoch * batch_size)
  for epoch in epochs:
    assert len(set(epoch)) == per_epoch * batch_size
    assert epoch.min() >= 0 and epoch.max() < count
  assert not np.array_equal(epochs[0], epochs[1])


def test_every_sample_is_dropped_in_some_epoch_and_drawn_in_another():
  federation = from_parts([range(10)])
  epochs = drawn(federation, 0, 100, 8)
  times = np.bincount(epochs.ravel(), minlength=10)
  # Expected 80 of 100 epochs, standard deviation 4.
  assert times.min() > 60 and times.max() < 100


def test_a_client_with_less_than_one_batch_draws_with_replacement():
  federation = from_parts([range(5), range(20, 60)])
  positions = drawn(federation, 0, 200, 8)
  assert positions.shape == (200, 8)
  # A batch of 8 from 5 samples repeats some in any case; without replacement,
  # in groups of five, every batch would hold each sample at least once.
  assert any(len(set(batch)) < 4 for batch in positions)
  times = np.bincount(positions.ravel(), minlength=5)
  assert len(times) == 5
  assert np.all(abs(times - 320) < 5 * np.sqrt(320))


def test_batches_do_not_depend_on_who_else_is_there():
  alone = from_parts([range(23)])
  beside = from_parts([range(23), range(23, 95)])
  assert alone.train.max_count < beside.train.max_count
  for steps in (2, 31):
    np.testing.assert_array_equal(
      drawn(alone, 0, steps, 8), drawn(beside, 0, steps, 8)
    )


def test_batches_depend_on_the_key():
  federation = from_parts([range(23)])
  one, other = (drawn(federation, 0, 2, 8, seed) for seed in (0, 1))
  assert not np.array_equal(one, other)


def test_only_own_rows_are_drawn():
  parts = [[3, 1, 40], range(50, 99), [7, 90, 2, 41, 5, 8, 9, 11, 12]]
  parts[1] = [row for row in parts[1] if row != 90]
  federation = from_parts(parts)

  @jax.jit
  def rows(client):
    data = federation.client(client)
    positions = data.draw(jax.random.key(1), 40, 4)
    return jax.vmap(lambda p: data.batch(p).inputs)(positions)

  for client, part in enumerate(parts):
    seen = np.asarray(rows(jnp.int32(client))).astype(int)
    assert set(seen.ravel()) == set(part)


def test_the_table_of_rows_is_not_padded():
  parts = [[3, 1], range(50, 99), [7]]
  federation = from_parts(parts)
  train = federation.train
  assert train.offset.tolist() == [0, 2, 51]
  assert train.count.tolist() == [2, 49, 1]
  assert train.max_count == 49
  assert np.asarray(train.rows).tolist() == [3, 1, *range(50, 99), 7]
  assert federation.validation.count.tolist() == [0, 0, 0]
  assert federation.validation.max_count == 0


def test_one_clients_view_has_its_samples_of_every_split():
  test = (np.array([9, 8], np.int32), np.array([30], np.int32))
  federation = from_parts([[3, 1], [50]], test=test)
  data = federation.client(jnp.int32(0))
  batch = data.batch(jnp.array([1, 0]), "test")
  assert batch.inputs[:, 0].tolist() == [8, 9]
  assert batch.labels.tolist() == [8 % 3, 9 % 3]
  assert data.batch(jnp.array([0])).inputs.tolist() == [[3]]
  np.testing.assert_array_equal(federation.example(), np.zeros((1, 1)))


def test_inputs_are_normalised_when_drawn():
  federation = from_parts([[10, 20]], mean=10.0, std=4.0)
  inputs = federation.client(jnp.int32(0)).batch(jnp.array([0, 1])).inputs
  assert inputs[:, 0].tolist() == [0.0, 2.5]


def test_integer_images_become_floats():
  images = np.full((4, 2, 2, 1), 255, np.uint8)
  part = (np.arange(4, dtype=np.int32),)
  federation = qj.make_federation(
    qj.from_arrays(images, np.array([0, 1, 0, 1]), mean=127.5, std=127.5),
    Partition(part, (np.zeros(0, np.int32),), part),
  )
  assert federation.source.inputs.dtype == jnp.uint8
  image = federation.client(0).batch(jnp.array([0])).inputs
  assert image.dtype == jnp.float32
  np.testing.assert_array_equal(image, np.ones((1, 2, 2, 1)))


def test_only_training_batches_are_augmented():
  images = np.random.default_rng(0).normal(size=(8, 6, 6, 1))
  part = (np.arange(8, dtype=np.int32),)
  federation = qj.make_federation(
    qj.from_arrays(images, np.arange(8) % 2),
    Partition(part, (np.zeros(0, np.int32),), part),
    augment="crop_flip",
  )
  data = federation.client(jnp.int32(0))
  positions = jnp.arange(8)
  plain = data.batch(positions)
  augmented = data.train_batch(jax.random.key(0), positions)
  np.testing.assert_allclose(plain.inputs, images.astype(np.float32))
  assert not np.array_equal(plain.inputs, augmented.inputs)
  np.testing.assert_array_equal(plain.labels, augmented.labels)


@pytest.mark.parametrize("augment", ["flip", "crop_flip"])
def test_an_augmentation_that_does_not_exist_or_fit_is_an_error(augment):
  with pytest.raises(ValueError, match=f"augment='{augment}': must be"):
    from_parts([range(4)], augment=augment)


def test_a_federation_is_an_argument_of_compiled_functions():
  counter = tiny.Counter(lambda f: f.client(jnp.int32(1)).train.count)
  count = jax.jit(counter)
  first = tiny.make_federation()
  second = tiny.make_federation(seed=1)
  assert int(count(first)) == int(count(second)) == tiny.COUNTS[1]
  assert counter.calls == 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    first.num_clients = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
  ("train", "test", "message"),
  [
    (([0, 1], []), ([2], [3]), r"partition.train\[1\]=\[\]: must hold"),
    (([0, 1], [4]), ([2], []), r"partition.test\[1\]=\[\]: must hold"),
    (([0, 1], [100]), ([2], [3]), r"train\[1\]: must hold rows from 0 to 19"),
    (([0, 1], [-1]), ([2], [3]), r"train\[1\]: must hold rows from 0 to 19"),
    (([0, 1], [4]), ([2],), "partition.test: must be of 2 clients"),
  ],
)
def test_a_partition_that_cannot_be_is_an_error(train, test, message):
  dataset = qj.from_arrays(np.zeros((20, 2)), np.arange(20) % 2)
  nothing = tuple(np.zeros(0, np.int32) for _ in train)
  parts = qj.data.Partition(
    train=tuple(np.array(rows, np.int32) for rows in train),
    validation=nothing,
    test=tuple(np.array(rows, np.int32) for rows in test),
  )
  with pytest.raises(ValueError, match=message):
    qj.make_federation(dataset, parts)


def test_without_a_partition_each_group_is_a_client():
  groups = ["b", "a", "c", "b"] * 6
  dataset = qj.from_arrays(
    np.eye(24), np.arange(24) % 2, client=groups, num_classes=2
  )
  federation = qj.make_federation(dataset)
  assert federation.num_clients == 3
  assert sorted(federation.groups or ()) == [("a",), ("b",), ("c",)]
  held = qj.make_federation(dataset, qj.partition(dataset, "natural"))
  assert tiny.largest_difference(held, federation) == 0
  plain = dataclasses.replace(dataset, groups=None, group_names=None)
  with pytest.raises(
    ValueError, match=r"^partition=None: must be given, .* client=ids\)"
  ):
    qj.make_federation(plain)
