import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import messages
from tests import tiny
from tests.methods import toy


def message(value):
  return {"w": jnp.full(3, value, jnp.float32), "b": jnp.float32(2 * value)}


def test_the_mean_is_over_all_cohorts():
  aggregates = {
    "a": api.weighted_sum(None, message(1.0), 1.0, None, "a"),
    "b": api.weighted_sum(None, message(5.0), 3.0, None, "b"),
  }
  mean = messages.mean_message(aggregates, message(0.0))
  np.testing.assert_allclose(mean["w"], np.full(3, 4.0))
  np.testing.assert_allclose(mean["b"], 8.0)


def test_the_mean_of_nobody_is_zero_whatever_was_sent():
  nothing = api.Aggregate(message(float("nan")), jnp.float32(0))
  mean = messages.mean_message({"a": nothing}, message(1.0))
  np.testing.assert_array_equal(mean["w"], np.zeros(3))
  assert mean["b"] == 0


def test_the_server_moves_only_if_it_heard_somebody():
  def aggregate(weight):
    return api.Aggregate((), jnp.float32(weight))

  for weights, expected in (((0, 0), 1.0), ((0, 2), 5.0)):
    heard = {str(i): aggregate(w) for i, w in enumerate(weights)}
    assert messages.if_heard(heard, jnp.float32(5), jnp.float32(1)) == expected


def test_clients_weigh_one_or_their_training_samples():
  data = tiny.make_federation((9, 3)).client(jnp.int32(0))
  assert messages.client_weight("uniform", data) == 1.0
  assert messages.client_weight("samples", data) == 9


def any_message():
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in (("w", (3, 2)), ("b", 2))
  }


clip = jax.jit(messages.clip)


def test_clipping_shortens_what_is_too_long_and_nothing_else():
  message = any_message()
  length = toy.norm(message)
  short = clip(message, length / 4)
  assert toy.norm(short) == pytest.approx(length / 4, rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b / 4, rtol=1e-5), short, message
  )
  for bound in (1.01 * length, 1e30):
    assert tiny.largest_difference(clip(message, bound), message) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_message_that_is_not_finite_becomes_zero(value):
  message = any_message()
  message["b"][1] = value
  assert toy.norm(clip(message, 1.0)) == 0


def test_what_replaces_the_mean_is_the_mean_message():
  aggregates = {
    "a": api.weighted_sum(None, message(1.0), 1.0, None, "a"),
    "b": api.weighted_sum(None, message(5.0), 3.0, None, "b"),
  }
  for weight, expected in ((1, 7.0), (0, 0.0)):
    new = messages.instead_of_mean(aggregates, message(7.0), weight)
    mean = messages.mean_message(new, message(0.0))
    np.testing.assert_array_equal(mean["w"], np.full(3, expected))


def test_no_message_makes_a_variance_negative():
  stats = {"norm": {"var": jnp.array([0.1, 0.2])}}
  moved = {"norm": {"var": jnp.array([0.3, -0.3])}}
  # A parameter may have any name.
  params = {"var": jnp.array([1.0])}
  held = by_precision.Held(
    {"norm": {"var": jnp.array([[1.0, 1.0], [2.0, 2.0]])}}, jnp.ones(2)
  )
  model = api.GlobalModel(params, stats, held)
  change = by_precision.Held(
    {"norm": {"var": jnp.array([[-0.5, 0.0], [-7.0, 1.0]])}}, jnp.ones(2)
  )
  difference = api.GlobalModel({"var": jnp.array([-3.0])}, moved, change)
  new = messages.add(model, difference)
  np.testing.assert_allclose(new.stats["norm"]["var"], [0.4, 0.0])
  np.testing.assert_array_equal(new.params["var"], [-2.0])
  np.testing.assert_array_equal(
    new.quantized_stats.values["norm"]["var"], [[0.5, 1.0], [0.0, 3.0]]
  )
