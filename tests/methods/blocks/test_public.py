import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods import api
from quped_jax.methods.blocks import public
from tests import tiny
from tests.methods import publics


@pytest.fixture(scope="module")
def federation():
  return publics.make_federation()


@pytest.fixture(scope="module")
def network(federation):
  model = publics.make_model()
  return model, *model.init(jax.random.key(1), federation.example())


@dataclasses.dataclass
class Distillation:
  distill_steps: int = 3
  distill_optimizer: str = "sgd"
  distill_learning_rate: float = 0.1


def square(logits, targets):
  return jnp.mean(jnp.square(logits - targets))


def descend(model, params, stats, batches, targets_of, rate=0.1):
  """Plain gradient descent on `square`, written out."""
  for inputs, rows in batches:

    def loss(params, inputs=inputs, rows=rows):
      logits, _ = model.apply(params, stats, inputs, True)
      return jnp.mean((logits - targets_of[rows]) ** 2)

    grads = jax.grad(loss)(params)
    params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
  return params


def test_a_subset_is_drawn_without_replacement():
  rows = np.asarray(public.draw_rows(jax.random.key(0), 30, 12))
  assert rows.dtype == np.int32 and len(set(rows)) == 12
  assert 0 <= rows.min() <= rows.max() < 30
  other = np.asarray(public.draw_rows(jax.random.key(1), 30, 12))
  assert set(rows) != set(other)
  assert public.draw_rows(jax.random.key(0), 30, 0) is None


def test_targets_stay_with_their_samples(federation):
  rows = jnp.array([7, 2, 29], jnp.int32)
  targets = jnp.arange(12.0).reshape(3, 4)
  data = public.with_targets(federation.public, targets, rows)
  batch = data.batch(jnp.array([2, 0], jnp.int32))
  np.testing.assert_array_equal(batch.labels, targets[jnp.array([2, 0])])
  own = federation.public.data().batch(jnp.array([29, 7], jnp.int32))
  np.testing.assert_array_equal(batch.inputs, own.inputs)


@pytest.mark.slow
def test_digestion_is_gradient_descent_on_the_targets(federation, network):
  model, params, stats = network
  targets = jax.random.normal(jax.random.key(2), (publics.SIZE, tiny.CLASSES))
  training = make_training(tiny.make_settings("local", 3, bits=(32,)))
  learner = training.learner(model, params, stats, 32)
  context = publics.make_context(federation)
  data = public.with_targets(federation.public, targets, None)
  key = jax.random.key(9)

  @jax.jit
  def digest(counts):
    return public.digest(
      training,
      model,
      learner,
      data,
      context,
      key,
      loss=square,
      steps=3,
      counts=counts,
    ).params

  batches = [
    (data.batch(rows).inputs, rows) for rows in data.draw(key, 3, tiny.BATCH)
  ]
  expected = descend(model, params, stats, batches, targets)
  assert tiny.largest_difference(digest(True), expected) < 1e-6
  assert tiny.largest_difference(digest(False), params) == 0
  assert tiny.largest_difference(expected, params) > 1e-2


@pytest.mark.slow
def test_distillation_is_the_optimizers_descent_on_the_targets(
  federation, network
):
  model, params, stats = network
  targets = jax.random.normal(jax.random.key(2), (publics.SIZE, tiny.CLASSES))
  data = public.with_targets(federation.public, targets, None)
  key = jax.random.key(9)
  new = public.distill(
    model,
    api.GlobalModel(params, stats),
    data,
    key,
    Distillation(),
    loss=square,
    batch_size=10,
  )
  batches = [(data.batch(rows).inputs, rows) for rows in data.draw(key, 3, 10)]
  expected = descend(model, params, stats, batches, targets)
  assert tiny.largest_difference(new.params, expected) < 1e-6
  assert tiny.largest_difference(expected, params) > 1e-2


@pytest.mark.slow
def test_a_client_says_what_it_knows_after_training(federation, network):
  model, params, stats = network
  training = make_training(tiny.make_settings("local", 3, bits=(32,)))
  learner = training.learner(model, params, stats, 32)
  context = publics.make_context(federation)
  rows = jnp.array([4, 20], jnp.int32)
  download = public.Download(jnp.zeros((2, tiny.CLASSES)), rows, rows[::-1])

  @jax.jit
  def play(download):
    return public.client_round(
      training,
      model,
      learner,
      download,
      federation.client(jnp.int32(0)),
      context,
      loss=square,
      digest_steps=4,
    )

  new, logits, _ = play(download)
  taught, _, _ = play(download._replace(targets=jnp.ones((2, tiny.CLASSES))))
  inputs = federation.public.data().batch(rows[::-1]).inputs
  said, _ = model.apply(new.params, stats, inputs, False)
  np.testing.assert_allclose(logits, said, atol=1e-5)
  # Targets that are all zero are none: plain training.
  plain = qj.methods.get_method("local")
  made = plain.build(api.Models(model, {"c": model}), training, None, None)
  alone = made.client_update(
    (), learner, federation.client(jnp.int32(0)), context, "c"
  )
  assert tiny.largest_difference(new.params, alone.client.params) < 1e-6
  assert tiny.largest_difference(taught.params, new.params) > 1e-3
