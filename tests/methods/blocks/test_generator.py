import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.methods.blocks import generator
from tests import tiny


def test_labels_are_counted():
  federation = tiny.make_federation((9, 23))
  for client, count in enumerate((9, 23)):
    data = federation.client(jnp.int32(client))
    counts = np.asarray(generator.label_counts(data, tiny.CLASSES))
    labels = np.asarray(data.batch(jnp.arange(count)).labels)
    expected = [np.sum(labels == k) for k in range(tiny.CLASSES)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == count


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
  noise = jnp.array([[0.0, 0.0], [3.0, 4.0]])
  features = jnp.array([[0.0, 1.0], [1.0, 0.0]])
  # Two of the four pairs differ: mean feature distance 1, noise distance 5.
  loss = generator.diversity_loss(noise, features)
  np.testing.assert_allclose(loss, np.exp(-2 * 5 / 4), rtol=1e-6)
  np.testing.assert_allclose(
    generator.diversity_loss(noise, jnp.ones((2, 2))), 1.0
  )
  grads = jax.grad(lambda z: generator.diversity_loss(noise, z))(features)
  assert np.all(np.isfinite(grads)) and np.max(np.abs(grads)) > 0


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
