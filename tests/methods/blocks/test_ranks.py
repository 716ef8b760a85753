"""The median and the trimmed mean of each coordinate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods import by_precision
from quped_jax.methods.blocks import ranks
from tests import tiny
from tests.methods.wrappers.slots import SLOTS, absent, by_hand, messages


@functools.partial(jax.jit, static_argnames="trim")
def center(given, sent, trim):
  """The trimmed mean, or with None the median."""
  if trim is None:
    return ranks.median(given, sent)
  return ranks.trimmed_mean(given, sent, trim)


@pytest.mark.parametrize("trim", [None, 0.0, 0.1, 0.29, 0.3, 0.49])
def test_it_is_what_a_loop_over_coordinates_gives(trim):
  for count in range(1, SLOTS + 1):
    sent, given = absent(SLOTS, count), messages(SLOTS)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      center(given, sent, trim),
      jax.tree.map(lambda x, sent=sent: by_hand(x[sent], trim), given),
    )


def test_a_share_is_rounded_down_but_not_by_how_floats_are_written():
  """0.29 times 100 is 28.999999999999996."""
  values = {"x": np.arange(100, dtype=np.float32)[:, None] ** 2}
  got = ranks.trimmed_mean(values, jnp.ones(100, bool), 0.29)
  expected = np.mean(np.arange(29, 71) ** 2)
  np.testing.assert_allclose(got["x"], [expected], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4, 10, 50])
def test_a_share_close_to_a_half_leaves_someone(count):
  messages = jnp.arange(50.0)
  sent = jnp.arange(50) < count
  found = ranks.trimmed_mean(messages, sent, np.nextafter(0.5, 0))
  assert float(found) == (count - 1) / 2


def test_the_median_of_identical_messages_is_that_message():
  one = jax.tree.map(lambda x: x[0], messages(1))
  many = jax.tree.map(lambda x: np.stack([x] * SLOTS), one)
  for count in range(1, SLOTS + 1):
    got = center(many, absent(SLOTS, count), None)
    assert tiny.largest_difference(got, one) == 0


@pytest.mark.parametrize("trim", [None, 0.2])
def test_the_order_of_clients_changes_no_bit(trim):
  sent, given = absent(SLOTS, 7), messages(SLOTS)
  first = center(given, sent, trim)
  for seed in range(5):
    order = np.random.default_rng(seed).permutation(SLOTS)
    shuffled = jax.tree.map(lambda x, order=order: x[order], given)
    other = center(shuffled, sent[order], trim)
    assert tiny.largest_difference(first, other) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38])
@pytest.mark.parametrize("trim", [None, 0.3])
def test_a_few_may_send_anything_at_all(value, trim):
  given = messages(SLOTS)
  attacked = jax.tree.map(np.copy, given)
  for leaf in jax.tree.leaves(attacked):
    leaf[[2, 5, 9]] = value
  got = center(attacked, np.ones(SLOTS, bool), trim)
  honest = np.delete(np.arange(SLOTS), [2, 5, 9])
  for new, old in zip(
    jax.tree.leaves(got), jax.tree.leaves(given), strict=True
  ):
    assert np.all(new >= old[honest].min(axis=0))
    assert np.all(new <= old[honest].max(axis=0))


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_parts_by_precision_are_averaged_among_their_senders(name):
  """All who lie may have one precision: there, as many are left out."""
  bits = np.array([1, 1, 1, 2, 2, 2, 2, 2, 32, 32])
  values = np.array([1.0, 2.0, 9.0, 3.0, -50.0, 4.0, 50.0, 5.0, 7.0, 8.0])
  messages = jax.vmap(
    lambda v, b: by_precision.split(
      {"s": by_precision.OfPrecision(jnp.full(2, v), 3)}, b
    )
  )(jnp.asarray(values), jnp.asarray(bits))
  sent = jnp.ones(10, bool)
  if name == "median":
    found = ranks.median(messages, sent)["s"]
  else:
    # One of ten at either end, so one of five and one of three.
    found = ranks.trimmed_mean(messages, sent, 0.1)["s"]
  np.testing.assert_allclose(found.totals[0], [2.0, 2.0])
  np.testing.assert_allclose(found.totals[1], [4.0, 4.0])
  np.testing.assert_array_equal(found.weights, [1.0, 1.0, 0.0])
