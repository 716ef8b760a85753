from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.experiment.training import make_training
from quped_jax.methods import api, get_method
from quped_jax.methods.blocks import credibility
from tests import tiny
from tests.methods import publics, toy

COHORT = tiny.COHORT
METHODS = ("fedcad", "fedssd")


def by_hand(predicted, labels, classes):
  """The formula, a class at a time."""
  result = []
  for c in range(classes):
    taken = [
      np.mean(predicted[labels == j] == c) if np.any(labels == j) else 0.0
      for j in range(classes)
    ]
    others = [share for j, share in enumerate(taken) if j != c]
    result.append(taken[c] * (1 - max(others)))
  return result


def judge(predicted, labels, classes):
  """The credibility of a model with these predictions."""
  logits = jax.nn.one_hot(jnp.asarray(predicted), classes) - 7
  return credibility.of_classes(logits, jnp.asarray(labels))


def test_a_class_is_credible_if_it_is_known_and_others_are_not_taken_for_it():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 60)  # The fifth class has no samples.
  predicted = np.where(rng.random(60) < 0.6, labels, rng.integers(0, 5, 60))
  found = judge(predicted, labels, 5)
  np.testing.assert_allclose(found, by_hand(predicted, labels, 5), rtol=1e-5)
  assert len(np.unique(found[:4])) == 4 and found[4] == 0


def test_a_perfect_model_is_credible_and_a_constant_one_is_not():
  labels = np.arange(12) % 4
  np.testing.assert_array_equal(judge(labels, labels, 4), np.ones(4))
  np.testing.assert_array_equal(judge(0 * labels, labels, 4), np.zeros(4))


def test_distances_are_weighted_before_they_are_squared():
  taught, logits, weights = np.random.default_rng(0).normal(size=(3, 5, 4))
  expected = np.mean(np.sum((weights * (taught - logits)) ** 2, axis=1))
  found = credibility.weighted_distance(taught, logits, weights)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_server_judges_the_model_that_it_has_averaged(name):
  federation = publics.make_federation()
  model = publics.make_model((4,))
  made = publics.make_method(name, federation, model=model)
  server, _ = toy.begin(made, federation)
  np.testing.assert_array_equal(server.credibility, np.zeros(tiny.CLASSES))
  moved = jax.tree.map(lambda x: 0.3 * jnp.ones_like(x), server.model)
  moved = moved._replace(params=jax.tree.map(jnp.cos, server.model.params))
  context = toy.at_server()._replace(public=federation.public)
  update = jax.jit(made.server_update)
  new = update(server, {COHORT: api.Aggregate(moved, jnp.float32(1))}, context)
  params = jax.tree.map(jnp.add, server.model.params, moved.params)
  assert tiny.largest_difference(new.model.params, params) < 1e-6
  source: Any = context.public.source
  predicted = toy.hand_forward(params, source.inputs).argmax(axis=1)
  expected = by_hand(np.asarray(predicted), np.asarray(source.labels), 4)
  np.testing.assert_allclose(new.credibility, expected, atol=1e-6)
  assert np.max(expected) > 0
  # Who hears nobody has nothing new to judge.
  nothing = jax.tree.map(jnp.zeros_like, moved)
  silent = {COHORT: api.Aggregate(nothing, jnp.float32(0))}
  again = update(server, silent, context)
  assert tiny.largest_difference(again, server) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_first_round_is_that_of_fedavg(name):
  """Nothing that clients have trained has been judged yet."""
  own, plain = toy.play_one_client(name), toy.play_one_client("fedavg")
  assert tiny.largest_difference(own.result, plain.result) < 1e-6
  extra = own.download.credibility.nbytes
  assert extra == 4 * tiny.CLASSES


@pytest.mark.parametrize("name", METHODS)
def test_a_public_set_without_labels_is_an_error(name):
  federation = publics.make_federation(labelled=False)
  with pytest.raises(ValueError, match="public_labelled=False: must be True"):
    publics.make_method(name, federation)


@pytest.mark.parametrize("name", METHODS)
def test_labels_that_are_no_classes_are_an_error(name):
  settings = tiny.make_settings(name, 3)
  training = make_training(settings)
  federation, model = publics.make_federation(), publics.make_model()
  with pytest.raises(ValueError, match=f"over classes with method='{name}'"):
    get_method(name).build(
      api.Models(model, {COHORT: model}),
      training._replace(classes=False),
      settings.options(),
      federation,
    )
