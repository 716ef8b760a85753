import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods.blocks import quantized_labels

ALL_BITS = (1, 2, 3, 4, 5, 6, 7, 8)


def soft_labels(samples=13, classes=5, seed=0):
  logits = 2 * jax.random.normal(jax.random.key(seed), (samples, classes))
  return jax.nn.softmax(logits)


def hand_apportion(row, total):
  counts = np.floor(row * total).astype(int)
  lost = row * total - counts
  for k in np.argsort(-lost, kind="stable")[: total - counts.sum()]:
    counts[k] += 1
  return counts


@pytest.mark.parametrize("bits", ALL_BITS)
def test_integers_are_apportioned_by_largest_remainder(bits):
  total = 2**bits - 1
  labels = soft_labels()
  integers = np.asarray(quantized_labels.apportion(labels, total))
  assert np.all(integers.sum(axis=1) == total)
  assert np.all(np.abs(integers - np.asarray(labels) * total) < 1)
  expected = [hand_apportion(row, total) for row in np.asarray(labels)]
  np.testing.assert_array_equal(integers, expected)


def test_seats_go_to_the_largest_remainders_and_to_the_first_of_equals():
  # 3 x (0.5, 0.3, 0.2) = (1.5, 0.9, 0.6); 3 x 0.25 = 0.75 each.
  labels = jnp.array([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
  expected = [[1, 1, 1, 0], [1, 1, 1, 0]]
  np.testing.assert_array_equal(quantized_labels.apportion(labels, 3), expected)


def test_one_bit_is_the_largest_entry():
  labels = soft_labels()
  one = quantized_labels.decode(
    quantized_labels.encode(labels, 1), 1, labels.shape
  )
  np.testing.assert_array_equal(
    one, jax.nn.one_hot(jnp.argmax(labels, axis=1), 5)
  )


@pytest.mark.parametrize("bits", (*ALL_BITS, 32))
def test_decoded_labels_are_near_and_stay_as_they_are(bits):
  labels = soft_labels()
  again = quantized_labels.decode(
    quantized_labels.encode(labels, bits), bits, labels.shape
  )
  np.testing.assert_allclose(again.sum(axis=1), 1, rtol=1e-6)
  error = 0 if bits == 32 else 1 / (2**bits - 1)
  assert np.max(np.abs(again - labels)) <= error
  twice = quantized_labels.decode(
    quantized_labels.encode(again, bits), bits, labels.shape
  )
  np.testing.assert_allclose(twice, again, atol=1e-7)
  nothing = quantized_labels.nothing(bits, labels.shape)
  assert nothing.dtype == quantized_labels.encode(labels, bits).dtype
  np.testing.assert_array_equal(
    quantized_labels.decode(nothing, bits, labels.shape), np.zeros(labels.shape)
  )


def test_other_bits_are_errors():
  for bits in (*ALL_BITS, 32):
    quantized_labels.check_bits("some.bits", bits)
  for bits in (0, 9, 16):
    with pytest.raises(ValueError, match=f"some.bits={bits}: must be from 1"):
      quantized_labels.check_bits("some.bits", bits)
