import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods import api
from quped_jax.methods.blocks import generator_inputs


def shaped(*shape) -> Any:
  """A federation of which only the shape of the inputs matters."""
  return types.SimpleNamespace(example=lambda: jnp.zeros((1, *shape)))


@dataclasses.dataclass(frozen=True)
class Options(generator_inputs.TurnsOptions):
  method = "mine"


@pytest.mark.parametrize("shape", [(6,), (4, 3, 2)])
@pytest.mark.parametrize("classes", [0, 3])
def test_inputs_have_the_shape_of_samples_and_their_mean_and_variance(
  shape, classes
):
  options = Options(noise_size=5, hidden=(7,))
  made = generator_inputs.make_input_generator(options, shaped(*shape), classes)
  params = made.init(jax.random.key(0))
  assert params["first"]["kernel"].shape == (5 + classes, 7)
  noise = made.noise(jax.random.key(1), 50)
  labels = jax.nn.one_hot(jnp.arange(50) % max(classes, 1), classes)
  inputs = made.inputs(params, noise, labels if classes else None)
  assert inputs.shape == (50, *shape)
  axes = tuple(range(len(shape)))
  np.testing.assert_allclose(np.mean(inputs, axis=axes), 0, atol=1e-5)
  np.testing.assert_allclose(np.var(inputs, axis=axes), 1, atol=1e-2)
  other = made.inputs(params, noise, labels[::-1] if classes else None)
  assert np.allclose(inputs, other) == (classes == 0)


def test_a_constant_channel_is_zero():
  inputs = generator_inputs.standardise(jnp.full((4, 2), 3.0))
  np.testing.assert_array_equal(inputs, 0.0)


def test_teachers_that_were_not_heard_say_nothing_whatever_they_are():
  params = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf], [3.0, -1.0]])
  teachers = api.GlobalModel(params, {})
  heard, shares = jnp.array([True, False, True]), jnp.array([2.0, 5.0, 7.0])

  @jax.jit
  def total(x):
    return generator_inputs.sum_over_teachers(
      lambda teacher, share: share * teacher.params * x, teachers, heard, shares
    )

  x = jnp.array([1.0, 10.0])
  np.testing.assert_allclose(total(x), [23.0, -30.0])
  slope = jax.grad(lambda x: jnp.sum(total(x)))(x)
  np.testing.assert_allclose(slope, [23.0, -3.0])


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("iterations", -1, "iterations=-1: must be at least 0"),
    ("generator_steps", -1, "generator_steps=-1: must be at least 0"),
    ("generator_learning_rate", 0.0, "generator_learning_rate=0.0: must be p"),
    ("distill_optimizer", "x", "distill_optimizer='x': must be one of sgd"),
    ("noise_size", 0, "noise_size=0: must be at least 1"),
    ("hidden", (4, 0), "hidden=0: must be at least 1"),
  ],
)
def test_wrong_options_are_errors(option, value, message):
  with pytest.raises(ValueError, match=f"mine.{message}"):
    Options(**{option: value})
