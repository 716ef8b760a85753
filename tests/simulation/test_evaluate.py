import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import models
from quped_jax.simulation import evaluate
from tests import tiny


@pytest.fixture(scope="module")
def trained():
  federation = tiny.make_federation()
  model = models.create_model("mlp", tiny.CLASSES, features=(8,))
  params, stats = model.init(jax.random.key(3), federation.example())
  return federation, model, params, stats


def by_hand(federation, model, params, stats, client, split):
  part = getattr(federation, split)
  first, count = int(part.offset[client]), int(part.count[client])
  rows = np.asarray(part.rows)[first : first + count]
  inputs = np.asarray(federation.source.inputs)[rows]
  logits, _ = model.apply(params, stats, inputs, False)
  hits = (
    np.argmax(logits, axis=-1) == np.asarray(federation.source.labels)[rows]
  )
  return hits.mean()


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64, 500])
@pytest.mark.parametrize("split", ["train", "test"])
def test_accuracy_is_that_of_the_clients_own_rows(trained, split, batch_size):
  federation, model, params, stats = trained

  @jax.jit
  def accuracy(client):
    data = federation.client(client)
    return evaluate.accuracy(model, params, stats, data, split, batch_size)

  values = [float(accuracy(jnp.int32(i))) for i in range(len(tiny.COUNTS))]
  expected = [
    by_hand(*trained, client=i, split=split) for i in range(len(tiny.COUNTS))
  ]
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  assert len(set(values)) > 1


def test_normalisation_is_by_the_running_statistics():
  federation = tiny.make_federation()
  model = models.create_model("normed", tiny.CLASSES)
  params, stats = model.init(jax.random.key(3), federation.example())
  draw = np.random.default_rng(0)
  stats = jax.tree.map(
    lambda x: jnp.array(draw.uniform(0.5, 2, x.shape)), stats
  )
  params = jax.tree.map(lambda x: jnp.array(draw.normal(size=x.shape)), params)
  for i in (1, 3):
    data = federation.client(jnp.int32(i))
    value = evaluate.accuracy(model, params, stats, data, "train", 4)
    args = federation, model, params, stats
    expected = by_hand(*args, client=i, split="train")
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_split_without_samples_gives_nan(trained):
  federation, model, params, stats = trained
  data = federation.client(jnp.int32(1))
  value = evaluate.accuracy(model, params, stats, data, "validation")
  assert np.isnan(value)


def test_every_variant_is_evaluated_on_every_split(trained):
  federation, model, params, stats = trained
  zeros = jax.tree.map(jnp.zeros_like, params)
  data = federation.client(jnp.int32(2))
  table = evaluate.accuracies(
    {"zero": (zeros, stats, model), "own": (params, stats, model)},
    data,
    ("train", "test"),
  )
  assert set(table) == {"train", "test"}
  for split, values in table.items():
    assert set(values) == {"zero", "own"}
    labels = data.batch(jnp.arange(int(getattr(data, split).count)), split)[1]
    # Equal logits: the first class is predicted.
    np.testing.assert_allclose(
      values["zero"], np.mean(np.asarray(labels) == 0), rtol=1e-6
    )


def test_a_model_of_nan_predicts_nothing(trained):
  federation, model, params, stats = trained
  broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
  data = federation.client(jnp.int32(0))
  assert evaluate.accuracy(model, broken, stats, data, "test") == 0.0


def test_what_clients_would_use_is_the_primary_variant():
  made = tiny.tiny("local", bits=(32,))
  state = made.play(1)
  models = list(made.simulation.primary_models(state))
  assert sorted(m.client_id for m in models) == list(range(len(tiny.COUNTS)))
  params = state.clients[tiny.COHORT].params
  for model in models:
    assert model.cohort == tiny.COHORT and model.stats == {}
    own = tiny.client(params, model.client_id)
    assert tiny.largest_difference(model.params, own) == 0
