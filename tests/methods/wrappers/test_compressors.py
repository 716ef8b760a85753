"""Arrays in fewer bytes, and what they are when they come back."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods.wrappers import compressors

EVERY = {
  "qsgd": compressors.qsgd(4),
  "l2": compressors.qsgd(4, "l2"),
  "uniform": compressors.uniform(4),
  "topk": compressors.top_k(0.1),
  "sign": compressors.signs(),
}
each = pytest.mark.parametrize("name", EVERY)
unbiased = pytest.mark.parametrize("name", ["qsgd", "l2", "uniform"])


def some(size: int = 100, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def through(compressor, key, values):
  return compressor.decode(compressor.encode(key, values), values.size)


def there_and_back(compressor, values) -> np.ndarray:
  return np.asarray(through(compressor, jax.random.key(0), values))


@functools.cache
def draws(name: str, count: int = 2000) -> np.ndarray:
  """What comes back of `some()`, with so many keys, float64."""
  one = functools.partial(through, EVERY[name], values=some())
  keys = jax.random.split(jax.random.key(0), count)
  return np.asarray(jax.vmap(lambda key: one(key=key))(keys), np.float64)


def bytes_by_hand(name: str, n: int, bits: int, share: float) -> int:
  if name == "topk":
    k = math.ceil(share * n)
    listed = math.ceil(k * math.ceil(math.log2(n)) / 8)
    return 4 * k + min(listed, math.ceil(n / 8))
  if name == "sign":
    return 4 + math.ceil(n / 8)
  return (8 if name == "uniform" else 4) + math.ceil(n * bits / 8)


@pytest.mark.parametrize("n", [64, 65, 1000])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_bytes_are_those_of_the_formula(n, bits):
  share = bits / 50
  made = {
    "qsgd": compressors.qsgd(bits),
    "l2": compressors.qsgd(bits, "l2"),
    "uniform": compressors.uniform(bits),
    "topk": compressors.top_k(share),
    "sign": compressors.signs(),
  }
  for name, compressor in made.items():
    sent = jax.eval_shape(
      compressor.encode, jax.random.key(0), jnp.zeros(n, jnp.float32)
    )
    found = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(sent))
    assert found == bytes_by_hand(name, n, bits, share), name


@unbiased
def test_the_mean_of_many_is_what_was_to_be_sent(name):
  found = draws(name)
  error = np.std(found, axis=0) / math.sqrt(len(found))
  assert np.all(np.abs(np.mean(found, axis=0) - some()) <= 5 * error + 1e-5)
  assert np.max(error) > 1e-3


@pytest.mark.parametrize("name", ["qsgd", "l2", "uniform"])
def test_each_number_is_one_of_its_two_neighbours(name):
  values = some().astype(np.float64)
  low, step = 0.0, np.max(np.abs(values)) / 7
  if name == "l2":
    step = np.linalg.norm(values) / 7
  if name == "uniform":
    low, step = values.min(), (values.max() - values.min()) / 15
  places = (draws(name) - low) / step
  np.testing.assert_allclose(places, np.round(places), atol=1e-4)
  assert np.all(np.abs(places - (values - low) / step) < 1 + 1e-4)


def test_the_error_of_qsgd_is_bounded():
  values = some()
  errors = np.mean(np.sum((draws("l2") - values) ** 2, axis=1))
  n, most = len(values), 7
  bound = min(n / most**2, math.sqrt(n) / most) * np.sum(values**2)
  assert 0.2 * bound < errors <= bound


@pytest.mark.parametrize("name", ["qsgd", "l2", "topk"])
def test_zeros_stay_zeros(name):
  values = some()
  values[::3] = 0
  assert np.all(there_and_back(EVERY[name], values)[::3] == 0)
  nothing = np.zeros(100, np.float32)
  np.testing.assert_array_equal(there_and_back(EVERY[name], nothing), nothing)


def test_equal_numbers_stay_as_they_are():
  values = np.full(100, np.float32(0.3))
  for name in ("uniform", "sign"):
    found = there_and_back(EVERY[name], values)
    np.testing.assert_allclose(found, values, rtol=1e-6)


def test_the_largest_number_travels_however_small_the_share():
  method = compressors.top_k(1e-12)
  values = jnp.arange(100.0)
  sent = method.encode(jax.random.key(0), values)
  np.testing.assert_array_equal(sent.values, [99.0])


@pytest.mark.parametrize("count", [1, 7, 50, 100])
def test_the_largest_numbers_travel_to_the_bit(count):
  """As many as the share says, whatever floats make of 0.07 times 100."""
  values = some()
  values[10:20] = values[10]  # Of equal ones the first.
  kept = np.argsort(-np.abs(values), kind="stable")[:count]
  expected = np.zeros_like(values)
  expected[kept] = values[kept]
  found = there_and_back(compressors.top_k(count / 100), values)
  np.testing.assert_array_equal(found, expected)


def test_signs_have_the_mean_size_and_zero_is_positive():
  values = np.array([3.0, -1.0, 0.0, -0.0, 2.0, -6.0], np.float32)
  found = there_and_back(compressors.signs(), values)
  np.testing.assert_array_equal(found, [2, -2, 2, 2, 2, -2])


@pytest.mark.parametrize("name", ["topk", "sign"])
def test_what_is_lost_is_shorter_than_what_was_to_be_sent(name):
  values = some(1000)
  lost = np.sum((values - there_and_back(EVERY[name], values)) ** 2)
  whole, sizes = np.sum(values**2), np.sum(np.abs(values))
  share = 0.1 if name == "topk" else sizes**2 / (1000 * whole)
  assert lost <= (1 - share) * whole * (1 + 1e-5)


@each
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_numbers_are_like_any_others(name, scale):
  """The same rounding, but for what powers of two do not share."""
  scale = np.float32(2.0 ** round(math.log2(scale)))
  found = there_and_back(EVERY[name], some() * scale)
  expected = there_and_back(EVERY[name], some()) * scale
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@each
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_shows(name, value):
  values = some()
  values[7] = value
  assert not np.all(np.isfinite(there_and_back(EVERY[name], values)))
