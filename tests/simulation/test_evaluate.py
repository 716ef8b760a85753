import dataclasses

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
    return evaluate.score(model, params, stats, data, split, batch_size)

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
    value = evaluate.score(model, params, stats, data, "train", 4)
    args = federation, model, params, stats
    expected = by_hand(*args, client=i, split="train")
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_split_without_samples_gives_nan(trained):
  federation, model, params, stats = trained
  data = federation.client(jnp.int32(1))
  value = evaluate.score(model, params, stats, data, "validation")
  assert np.isnan(value)


def test_every_variant_is_evaluated_on_every_split(trained):
  federation, model, params, stats = trained
  zeros = jax.tree.map(jnp.zeros_like, params)
  data = federation.client(jnp.int32(2))
  table = evaluate.scores(
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
  assert evaluate.score(model, broken, stats, data, "test") == 0.0


def with_targets(kind, change=None):
  """The tiny federation with other targets, and a model of two outputs."""
  federation = tiny.make_federation()
  count = len(federation.source.labels)
  drawn = np.random.default_rng(0).normal(size=(count, 2))
  targets = drawn.astype(np.float32) if kind == "values" else drawn > 0.3
  if change is not None:
    targets = change(targets)
  source = dataclasses.replace(federation.source, labels=targets)
  federation = dataclasses.replace(federation, source=source, num_classes=2)
  model = models.create_model("mlp", 2, features=(8,))
  return federation, model, *model.init(jax.random.key(3), federation.example())


def own(federation, model, params, stats, client, split):
  """A client's targets in a split, and the model's outputs."""
  part = getattr(federation, split)
  first, count = int(part.offset[client]), int(part.count[client])
  rows = np.asarray(part.rows)[first : first + count]
  inputs = np.asarray(federation.source.inputs)[rows]
  outputs, _ = model.apply(params, stats, inputs, False)
  return np.asarray(federation.source.labels)[rows], np.asarray(outputs)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
@pytest.mark.parametrize("kind", ["values", "multi_label"])
def test_other_targets_have_scores_of_the_clients_own_rows(kind, batch_size):
  made = federation, model, params, stats = with_targets(kind)
  for i, split in ((0, "train"), (3, "train"), (1, "test")):
    data = federation.client(jnp.int32(i))
    with jax.numpy_rank_promotion("raise"):
      found = evaluate.score(model, params, stats, data, split, batch_size)
    labels, outputs = own(*made, client=i, split=split)
    if kind == "values":
      around = labels.astype(np.float64) - labels.mean(axis=0, keepdims=True)
      wanted = 1 - np.sum((outputs - labels) ** 2) / np.sum(around**2)
    else:
      wanted = np.mean((outputs > 0) == labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert np.isnan(evaluate.score(model, params, stats, data, "validation"))


def test_the_mean_of_the_values_explains_nothing_and_the_values_all():
  made = federation, model, *_ = with_targets("values")
  labels, _ = own(*made, client=2, split="test")
  mean = jnp.asarray(labels.mean(axis=0, keepdims=True))
  data = federation.client(jnp.int32(2))
  inputs = np.asarray(federation.source.inputs)
  known = dataclasses.replace(federation.source, labels=inputs[:, :2])
  cases = [
    (lambda x: jnp.tile(mean, (len(x), 1)), data, 0.0),
    (lambda x: x[:, :2], dataclasses.replace(data, source=known), 1.0),
  ]
  for says, own_data, wanted in cases:
    told = model._replace(
      apply=lambda params, stats, x, train, says=says: (says(x), stats)
    )
    found = evaluate.score(told, {}, {}, own_data, "test")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
  ("kind", "value", "worst"),
  [
    ("values", np.nan, evaluate.LOWEST),
    ("values", np.inf, evaluate.LOWEST),
    ("values", 1e30, evaluate.LOWEST),
    ("multi_label", np.nan, 0.0),
  ],
)
def test_predictions_that_are_no_numbers_never_look_good(kind, value, worst):
  federation, model, params, stats = with_targets(kind)
  params = jax.tree.map(lambda p: jnp.full_like(p, value), params)
  data = federation.client(jnp.int32(0))
  assert evaluate.score(model, params, stats, data, "test") == worst


def test_equal_values_leave_nothing_to_explain():
  federation, model, params, stats = with_targets(
    "values", lambda targets: np.full_like(targets, 0.1)
  )
  data = federation.client(jnp.int32(3))
  assert np.isnan(evaluate.score(model, params, stats, data, "train", 7))


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
