import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import messages
from tests import tiny


def message(value):
  return {
    "w": jnp.float32(value),
    "s": by_precision.OfPrecision({"m": jnp.full(2, value)}, 3),
  }


def heard(values, weights, bits):
  """What a server sums over messages of clients with these bits."""
  sums = [
    api.weighted_sum(None, message(v), w, tiny.about(i, b), "c")
    for i, (v, w, b) in enumerate(zip(values, weights, bits, strict=True))
  ]
  return jax.tree.map(lambda *x: sum(x), *sums)


def test_each_precision_has_the_mean_of_its_own_clients():
  values, weights = (1.0, 2.0, 5.0, 7.0), (1.0, 3.0, 2.0, 4.0)
  aggregate = heard(values, weights, (1, 1, 3, 32))
  held = {"w": jnp.zeros(()), "s": by_precision.begin({"m": jnp.zeros(2)}, 3)}
  mean = messages.mean_message({"c": aggregate}, held)
  assert mean["w"] == np.average(values, weights=weights)
  # 1 bit: (1 + 3 * 2) / 4. Nobody has 2 bits; full precision does not count.
  expected = [[1.75, 1.75], [0.0, 0.0], [5.0, 5.0]]
  np.testing.assert_allclose(mean["s"].values["m"], expected, rtol=1e-6)


def test_cohorts_are_averaged_together():
  sums = {"a": heard((1.0,), (1.0,), (2,)), "b": heard((4.0,), (2.0,), (2,))}
  held = {"w": jnp.zeros(()), "s": by_precision.begin({"m": jnp.zeros(2)}, 3)}
  mean = messages.mean_message(sums, held)
  np.testing.assert_allclose(mean["s"].values["m"][1], [3.0, 3.0])


def held_sets():
  """Sets 0, 1 and 2 of 1, 2 and 3 bits, of which 2 bits were never heard of."""
  values = {"m": jnp.arange(3.0)[:, None] + jnp.zeros(2)}
  return by_precision.Held(values, jnp.array([1.0, 0.0, 4.0]))


@pytest.mark.parametrize(
  ("bits", "expected"), [(1, 0), (2, 9), (3, 2), (4, 9), (8, 9), (32, 9)]
)
def test_a_client_receives_the_set_of_its_precision(bits, expected):
  """Or else, and before one was heard of, that of the model itself."""
  taken = by_precision.take(
    held_sets(), jnp.int32(bits), {"m": jnp.full(2, 9.0)}
  )
  np.testing.assert_array_equal(taken.value["m"], np.full(2, expected))
  assert taken.precisions == 3


def test_a_set_begins_where_the_first_who_sends_it_began():
  change = by_precision.Held(
    {"m": jnp.array([[0.0, 0.0], [0.5, 0.5], [0.25, 0.25]])},
    jnp.array([0.0, 1.0, 1.0]),
  )
  new = by_precision.add(held_sets(), change, {"m": jnp.full(2, 9.0)})
  expected = [[0.0, 0.0], [9.5, 9.5], [2.25, 2.25]]
  np.testing.assert_array_equal(new.values["m"], expected)
  np.testing.assert_array_equal(new.heard, [1.0, 1.0, 5.0])


def test_a_message_without_such_parts_stays_as_it_is():
  plain = {"w": jnp.ones(2), "none": None}
  same = by_precision.split(plain, None)
  assert same["w"] is plain["w"] and same["none"] is None


def test_what_is_false_elsewhere_does_not_spread():
  """A message that is not finite reaches the sums of its precision alone."""
  aggregate = heard((1.0, np.nan), (1.0, 1.0), (1, 2))
  mean = by_precision.mean(aggregate.total["s"])
  np.testing.assert_array_equal(mean.values["m"][0], [1.0, 1.0])
