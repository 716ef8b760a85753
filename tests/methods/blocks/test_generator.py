import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods.blocks import generator
from tests import tiny


@pytest.mark.slow
def test_labels_are_counted():
  federation = tiny.make_federation((9, 23))
  for client, count in enumerate((9, 23)):
    data = federation.client(jnp.int32(client))
    counts = np.asarray(generator.label_counts(data, tiny.CLASSES))
    labels = np.asarray(data.batch(jnp.arange(count)).labels)
    expected = [np.sum(labels == k) for k in range(tiny.CLASSES)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == count


@pytest.mark.slow
def test_clients_speak_for_the_labels_that_they_have():
  logits = jnp.array([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 4.0], [1.0, 3.0]]])
  # Of label 0 the first has 3 of 4 samples, of label 1 the second has all.
  counts = jnp.array([[3.0, 0.0], [1.0, 5.0]])
  labels = jnp.eye(2)
  first = 0.75 * np.array([2, 0]) + 0.25 * np.array([0, 4])
  second = np.array([1.0, 3.0])
  expected = np.mean(
    [
      np.log(np.exp(first).sum()) - first[0],
      np.log(np.exp(second).sum()) - second[1],
    ]
  )
  loss = generator.ensemble_loss(logits, counts, labels)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  # A client without samples has no influence, whatever it sent.
  extra = jnp.concatenate([logits, 100 * jnp.ones((1, 2, 2))])
  more = jnp.concatenate([counts, jnp.zeros((1, 2))])
  loss = generator.ensemble_loss(extra, more, labels)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_diverse_features_of_different_noise_lose_less():
  rng = np.random.default_rng(0)
  noise, features = rng.uniform(size=(6, 4)), rng.normal(size=(6, 3))
  total = 0.0
  for i in range(6):
    for j in range(6):
      distance = np.abs(features[i] - features[j]).sum() / 3
      total += distance * ((noise[i] - noise[j]) ** 2).sum() / 4
  loss = generator.diversity_loss(jnp.array(noise), jnp.array(features))
  np.testing.assert_allclose(loss, np.exp(-total / 36), rtol=1e-6)
  same = generator.diversity_loss(jnp.array(noise), jnp.ones((6, 3)))
  np.testing.assert_allclose(same, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("size", (1.0, 2.0))
def test_the_diversity_loss_is_not_flat_where_training_starts(size):
  """The slope of exp(-x) is -exp(-x): where the loss is near 0, so is it."""
  made = generator.make_generator(64, 10, 32, (64,), batch_size=32)
  params = made.init(jax.random.key(0))
  noise, _, features = made.draw(jax.random.key(1), params, jnp.ones(10))
  features *= size / jnp.std(features)
  slope, grads = jax.value_and_grad(
    lambda z: generator.diversity_loss(noise, z)
  )(features)
  assert 0.5 < slope < 0.95
  assert np.all(np.isfinite(grads))


def test_noise_is_uniform_between_0_and_1():
  made = generator.make_generator(2, 3, 50, (), batch_size=200)
  noise, _, _ = made.draw(
    jax.random.key(1), made.init(jax.random.key(0)), jnp.ones(3)
  )
  assert jnp.min(noise) >= 0 and jnp.max(noise) < 1
  shares, _ = np.histogram(np.asarray(noise), bins=10, range=(0, 1))
  np.testing.assert_allclose(shares / noise.size, 0.1, atol=0.01)


@pytest.mark.slow
def test_labels_are_drawn_as_often_as_they_are_there():
  made = generator.make_generator(5, 3, 4, (6,), batch_size=400)
  params = made.init(jax.random.key(0))
  noise, labels, features = made.draw(
    jax.random.key(1), params, jnp.array([1.0, 0.0, 3.0])
  )
  assert noise.shape == (400, 4) and features.shape == (400, 5)
  shares = np.asarray(labels).mean(axis=0)
  assert shares[1] == 0
  np.testing.assert_allclose(shares, [0.25, 0, 0.75], atol=0.07)
  # The label decides over the features.
  ones = jax.nn.one_hot(jnp.zeros(400, int), 3)
  _, _, other = made.draw(jax.random.key(1), params, ones[0])
  assert np.max(np.abs(other - features)) > 1e-2
