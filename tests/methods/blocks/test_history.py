from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.methods import api
from quped_jax.methods.blocks import history
from tests import tiny

# The server does not look at it.
CONTEXT: Any = None


def heard(value, weight=1.0):
  """The server has received that everything moves by the value."""
  message = api.GlobalModel({"w": jnp.full(2, value)}, {"m": jnp.array(value)})
  return {"a": api.weighted_sum(None, message, weight, None, "a")}


def begin(length):
  model = api.GlobalModel({"w": jnp.array([1.0, 2.0])}, {"m": jnp.array(3.0)})
  return history.begin(model, length)


def test_the_last_models_are_kept_newest_first():
  server = begin(3)
  for value in (1.0, 10.0, 100.0, 1000.0):
    server = history.add_mean(server, heard(value, 2.0), CONTEXT)
  expected = [[1112.0, 1113.0], [112.0, 113.0], [12.0, 13.0]]
  np.testing.assert_allclose(server.models.params["w"], expected)
  np.testing.assert_allclose(server.models.stats["m"], [1114.0, 114.0, 14.0])
  np.testing.assert_allclose(server.model.params["w"], expected[0])
  assert server.count == 3


def test_the_mean_is_over_those_that_have_been():
  server, values = begin(3), [np.array([1.0, 2.0])]
  for value in (1.0, 10.0, 100.0, 1000.0):
    teacher = jax.jit(history.mean)(server)
    np.testing.assert_allclose(
      teacher.params["w"], np.mean(values[-3:], axis=0), rtol=1e-6
    )
    np.testing.assert_array_equal(
      history.remembered(server), np.arange(3) < len(values)
    )
    server = history.add_mean(server, heard(value), CONTEXT)
    values.append(values[-1] + value)


def test_a_server_that_hears_nobody_forgets_nothing():
  server = history.add_mean(begin(3), heard(1.0), CONTEXT)
  after = history.add_mean(server, heard(5.0, 0.0), CONTEXT)
  assert tiny.largest_difference(server, after) == 0
  assert after.count == server.count == 2


def test_types_are_kept():
  model = api.GlobalModel({"w": jnp.ones(2, jnp.bfloat16)}, {})
  mean = history.mean(history.begin(model, 2))
  assert mean.params["w"].dtype == jnp.bfloat16
