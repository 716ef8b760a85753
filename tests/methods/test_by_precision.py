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
  held = {"w": jnp.zeros(()), "s": {"m": jnp.zeros((3, 2))}}
  mean = messages.mean_message({"c": aggregate}, held)
  assert mean["w"] == np.average(values, weights=weights)
  # 1 bit: (1 + 3 * 2) / 4. Nobody has 2 bits; full precision does not count.
  expected = [[1.75, 1.75], [0.0, 0.0], [5.0, 5.0]]
  np.testing.assert_allclose(mean["s"]["m"], expected, rtol=1e-6)


def test_cohorts_are_averaged_together():
  sums = {"a": heard((1.0,), (1.0,), (2,)), "b": heard((4.0,), (2.0,), (2,))}
  held = {"w": jnp.zeros(()), "s": {"m": jnp.zeros((3, 2))}}
  mean = messages.mean_message(sums, held)
  np.testing.assert_allclose(mean["s"]["m"][1], [3.0, 3.0])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 32])
def test_a_client_receives_the_set_of_its_precision(bits):
  held = by_precision.begin({"m": jnp.zeros(2)}, 3)
  held = jax.tree.map(lambda x: x + jnp.arange(3.0)[:, None], held)
  taken = by_precision.take(held, jnp.int32(bits), {"m": jnp.full(2, 9.0)})
  expected = bits - 1.0 if bits <= 3 else 9.0
  np.testing.assert_array_equal(taken.value["m"], np.full(2, expected))
  assert taken.precisions == 3


def test_a_message_without_such_parts_stays_as_it_is():
  plain = {"w": jnp.ones(2), "none": None}
  assert by_precision.split(plain, None) is not None
  same = by_precision.split(plain, None)
  assert same["w"] is plain["w"] and same["none"] is None


def test_what_is_false_elsewhere_does_not_spread():
  """A message that is not finite reaches the sums of its precision alone."""
  aggregate = heard((1.0, np.nan), (1.0, 1.0), (1, 2))
  mean = by_precision.mean(aggregate.total["s"])
  np.testing.assert_array_equal(mean["m"][0], [1.0, 1.0])
