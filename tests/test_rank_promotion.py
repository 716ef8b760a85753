"""The library runs where JAX is forbidden to promote ranks.

What the tests over all methods run is checked in `tiny.assemble`.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import quped_jax as qj
from quped_jax.data import augment
from quped_jax.models import pool
from quped_jax.quantization import alternating, training_steps


def images(*shape):
  return jax.random.normal(jax.random.key(1), shape)


def quantized_step(granularity, norm, bits=2, estimator="soft"):
  """An alternating step of a matrix with two levels, or two per channel."""
  step = training_steps.make_alternating(
    optax.sgd(0.1), optax.sgd(0.01), norm=norm, estimator=estimator
  )
  params = {"kernel": images(5, 3)}
  codebooks = qj.init_codebooks(
    params, lambda name: True, bits, granularity=granularity
  )

  def objective(params, stats):
    return jnp.sum(params["kernel"] ** 2), stats

  rates = alternating.Rates(0.1, 0.01, 0.1, progress=0.5)
  learner = step.init(params, {}, codebooks)
  learner, _ = step.step(learner, objective, rates)
  return alternating.deployed(alternating.freeze(learner))


def logits(name, inputs, **options):
  model = qj.create_model(name, 4, **options)
  params, stats = model.init(jax.random.key(0), inputs)
  return jax.grad(
    lambda p: jnp.sum(model.apply(p, stats, inputs, True)[0] ** 2)
  )(params)


@pytest.mark.parametrize(
  "call",
  [
    lambda: quantized_step("tensor", "l1"),
    lambda: quantized_step("channel", "l2"),
    lambda: quantized_step("tensor", "l1", bits=4),
    lambda: quantized_step("channel", "l1", estimator="lsq"),
    lambda: quantized_step("channel", "l1", estimator="parq"),
    lambda: quantized_step("channel", "l1", estimator="binaryrelax"),
    lambda: augment.crop_flip(jax.random.key(0), images(4, 6, 6, 1)),
    lambda: jax.grad(lambda x: jnp.sum(pool.max_pool_2x2(x)))(
      images(2, 4, 4, 3)
    ),
    lambda: logits("transformer", jnp.zeros((2, 3), jnp.int32), blocks=1),
    lambda: logits("resnet8", images(2, 8, 8, 3)),
    lambda: logits("cnn2", images(2, 8, 8, 1)),
  ],
)
def test_no_array_is_promoted_to_a_higher_rank(call):
  with jax.numpy_rank_promotion("raise"):
    jax.eval_shape(call)  # Ranks are known without computing anything.
