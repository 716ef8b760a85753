import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.data import SyntheticSource

SOURCE = SyntheticSource(
  seed=3, num_classes=7, shape=(4, 2), noise=0.5, classes_per_client=3
)


def test_shapes_and_dtypes():
  inputs, labels = SOURCE.draw(5, jnp.arange(11))
  assert inputs.shape == (11, 4, 2) and inputs.dtype == jnp.float32
  assert labels.shape == (11,) and labels.dtype == jnp.int32


def test_a_sample_does_not_depend_on_the_batch():
  inputs, labels = SOURCE.draw(5, jnp.arange(20))
  rows = jnp.array([13, 2, 2])
  some_inputs, some_labels = jax.jit(lambda c, r: SOURCE.draw(c, r))(5, rows)
  np.testing.assert_allclose(some_inputs, inputs[rows], rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(some_labels, labels[rows])


def test_vmap_over_clients_is_one_client_at_a_time():
  rows = jnp.arange(6)
  clients = jnp.array([0, 9, 100_000])
  inputs, labels = jax.jit(
    lambda source, c: jax.vmap(lambda i: source.draw(i, rows))(c)
  )(SOURCE, clients)
  for place, client in enumerate(clients):
    alone = SOURCE.draw(int(client), rows)
    np.testing.assert_allclose(inputs[place], alone[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels[place], alone[1])
  assert not np.allclose(inputs[0], inputs[1])


def test_another_seed_does_not_recompile_but_changes_all():
  traces = []

  @jax.jit
  def draw(source):
    traces.append(source)
    return source.draw(1, jnp.arange(4))[0]

  first = draw(SOURCE)
  other = draw(dataclasses.replace(SOURCE, seed=4))
  assert len(traces) == 1
  assert not np.allclose(first, other)
  assert not np.allclose(
    SOURCE.class_means(), dataclasses.replace(SOURCE, seed=4).class_means()
  )


def test_a_client_holds_its_classes_evenly():
  for client in range(5):
    classes = np.asarray(SOURCE.client_classes(client))
    assert len(set(classes)) == 3 and classes.min() >= 0 and classes.max() < 7
    _, labels = SOURCE.draw(client, jnp.arange(30))
    assert (np.bincount(labels, minlength=7)[classes] == 10).all()


def test_clients_hold_different_classes_that_cover_all():
  held = jax.vmap(SOURCE.client_classes)(jnp.arange(30))
  assert len(np.unique(np.sort(held, axis=1), axis=0)) > 10
  assert set(np.unique(held)) == set(range(7))


def test_all_classes_by_default():
  source = SyntheticSource(seed=0, num_classes=4)
  assert set(np.asarray(source.client_classes(2))) == set(range(4))


def test_features_are_gaussian_around_the_class_mean():
  inputs, labels = SOURCE.draw(0, jnp.arange(6000))
  residual = np.asarray(inputs - SOURCE.class_means()[labels])
  assert abs(residual.mean()) < 0.02
  assert abs(residual.std() - 0.5) < 0.02
  noiseless = dataclasses.replace(SOURCE, noise=0.0).draw(0, jnp.arange(9))
  np.testing.assert_array_equal(
    noiseless[0], SOURCE.class_means()[noiseless[1]]
  )
  assert 0.7 < np.std(SOURCE.class_means()) < 1.3


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("seed", -1, "seed=-1: must be between 0"),
    ("seed", 2**31, "seed=2147483648: must be between 0"),
    ("num_classes", 1, "num_classes=1: must be at least 2"),
    ("num_classes", 2.5, "num_classes=2.5: must be a whole number"),
    ("classes_per_client", "2", "classes_per_client='2': must be a whole"),
    ("noise", "1", "noise='1': must be a number"),
    ("shape", (2.5,), r"shape=\(2.5,\): must be whole numbers"),
    ("shape", "3", "shape='3': must be whole numbers"),
    ("seed", np.int64(-1), "seed=-1: must be between 0"),
    ("shape", (), r"shape=\(\): must be positive"),
    ("shape", (3, 0), r"shape=\(3, 0\): must be positive"),
    ("noise", -0.5, "noise=-0.5: must be finite"),
    ("noise", float("inf"), "noise=inf: must be finite"),
    ("classes_per_client", 8, "classes_per_client=8: .* between 1 and 7"),
    ("classes_per_client", 0, "classes_per_client=0: .* between 1 and 7"),
    ("train_samples", 0, "train_samples=0: must be at least 1"),
    ("test_samples", 0, "test_samples=0: must be at least 1"),
  ],
)
def test_errors(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SOURCE, **{field: value})


def test_numbers_of_numpy_are_numbers_and_one_size_is_a_shape():
  given = SyntheticSource(
    np.int64(3),  # pyright: ignore[reportArgumentType]
    num_classes=np.int8(7),  # pyright: ignore[reportArgumentType]
    shape=[np.int16(4)],  # pyright: ignore[reportArgumentType]
    noise=np.float32(1),  # pyright: ignore[reportArgumentType]
  )
  plain = SyntheticSource(3, num_classes=7, shape=(4,), noise=1.0)
  assert jax.tree.structure(given) == jax.tree.structure(plain)
  assert hash(jax.tree.structure(given)) == hash(jax.tree.structure(plain))
