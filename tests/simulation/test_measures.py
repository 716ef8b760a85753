"""Measures beside the score, against brute force."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from quped_jax.data import from_arrays, partition
from quped_jax.data.federation import make_federation
from quped_jax.methods.blocks import losses
from quped_jax.models import create_model
from quped_jax.simulation import evaluate
from quped_jax.simulation.measures import (
  TARGETS,
  Measure,
  make_measures,
  measured,
)
from tests import tiny

WIDTH, CLIENTS = 3, 3
LOSSES = {
  "classes": losses.cross_entropy,
  "values": losses.squared_error,
  "multi_label": losses.binary_cross_entropy,
}


def named(kind, own=()) -> dict[str, Measure]:
  names = [name for name, kinds in TARGETS.items() if kind in kinds]
  return make_measures(names, LOSSES[kind], dict(own), kind)


def draw(kind, samples=40, seed=0) -> tuple[Any, Any]:
  """Outputs and targets."""
  rng = np.random.default_rng(seed)
  outputs = rng.normal(size=(samples, WIDTH)).astype(np.float32)
  if kind == "classes":
    return outputs, rng.integers(0, WIDTH, samples)
  noise = rng.normal(size=(samples, WIDTH)).astype(np.float32)
  return outputs, outputs + noise if kind == "values" else noise > 0.3


def by_hand(kind, outputs, targets) -> dict[str, float]:
  """All measures, by scikit-learn and NumPy."""
  if kind == "values":
    errors = outputs - targets
    mse = np.mean(errors**2)
    return {"loss": mse, "mse": mse, "mae": np.mean(np.abs(errors))}
  if kind == "classes":
    said = outputs.argmax(axis=1)
    own = np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0]
    loss = np.log(np.sum(np.exp(outputs), axis=1)) - own
    return {
      "accuracy": np.mean(said == targets),
      "loss": np.mean(loss),
      "macro_f1": sklearn_metrics.f1_score(targets, said, average="macro"),
    }
  said = outputs > 0
  loss = np.log1p(np.exp(np.where(targets, -outputs, outputs)))
  return {
    "label_accuracy": np.mean(said == targets),
    "loss": np.mean(loss),
    "macro_f1": sklearn_metrics.f1_score(targets, said, average="macro"),
  }


@pytest.mark.parametrize("kind", LOSSES)
def test_measures_are_what_they_are_called(kind):
  outputs, targets = draw(kind)
  found = {
    name: float(x.value(x.sums(outputs, targets, jnp.ones(40, bool))))
    for name, x in named(kind).items()
  }
  expected = by_hand(kind, outputs, targets)
  assert set(found) == set(expected)
  for name, value in found.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", LOSSES)
def test_sums_add_up_whatever_the_batches_and_the_padding(kind):
  outputs, targets = draw(kind)
  for name, measure in named(kind).items():
    whole = measure.sums(outputs, targets, jnp.ones(40, bool))
    parts = []
    for begin in range(0, 40, 15):
      rows = np.minimum(np.arange(begin, begin + 15), 39)
      broken: Any = np.where(
        (np.arange(begin, begin + 15) < 40)[:, None], outputs[rows], np.nan
      )
      counts = jnp.arange(begin, begin + 15) < 40
      parts.append(measure.sums(broken, targets[rows], counts))
    total = jax.tree.map(lambda *x: sum(x), *parts)
    for a, b in zip(
      jax.tree.leaves(total), jax.tree.leaves(whole), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_clients_have_their_own_and_all_together_are_pooled(kind):
  """Clients differ in size, so that the mean over them is another."""
  sizes = [5, 12, 40]
  whole = [draw(kind, seed=seed) for seed in range(3)]
  drawn = [
    (outputs[:size], targets[:size])
    for (outputs, targets), size in zip(whole, sizes, strict=True)
  ]
  for name, measure in named(kind).items():
    sums = [
      measure.sums(*x, jnp.arange(40) < size)
      for x, size in zip(whole, sizes, strict=True)
    ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *sums)
    found = measured(measure, stacked)
    each = [by_hand(kind, *x)[name] for x in drawn]
    np.testing.assert_allclose(found.clients, each, rtol=1e-5)
    together = by_hand(
      kind, *(np.concatenate(x) for x in zip(*drawn, strict=True))
    )
    np.testing.assert_allclose(found.pooled, together[name], rtol=1e-5)
    assert abs(found.pooled - np.mean(each)) > 1e-4


def test_clients_without_samples_have_none_and_do_not_count():
  outputs, targets = draw("classes")
  counts = jnp.ones(40, bool)
  for measure in named("classes").values():
    own = measure.sums(outputs, targets, counts)
    nothing = measure.sums(outputs, targets, ~counts)
    missing = jax.tree.map(lambda x: np.full_like(x, np.nan), own)
    stacked = jax.tree.map(lambda *x: np.stack(x), own, nothing, missing)
    found = measured(measure, stacked)
    assert np.isnan(found.clients).tolist() == [False, True, True]
    np.testing.assert_allclose(found.pooled, found.clients[0], rtol=1e-6)


def test_macro_f1_is_over_the_classes_that_occur_or_are_said():
  measure = named("classes")["macro_f1"]
  outputs = jnp.eye(3)[jnp.array([0, 0, 1])]
  # Classes 0 and 1 have F1 of 4/5 and 0; nobody has or is said to be of 2.
  found = measure.value(
    measure.sums(outputs, jnp.array([0, 0, 0]), jnp.ones(3, bool))
  )
  np.testing.assert_allclose(found, 0.4, rtol=1e-6)


def test_a_model_of_nan_says_nothing():
  outputs = jnp.full((4, 3), jnp.nan)
  for name in ("accuracy", "macro_f1"):
    measure = named("classes")[name]
    sums = measure.sums(outputs, jnp.array([0, 0, 1, 2]), jnp.ones(4, bool))
    assert measure.value(sums) == 0


def test_an_own_measure_is_the_mean_of_what_samples_have():
  within = {"within": lambda y, t: jnp.all(abs(y - t) < 0.5, axis=-1)}
  outputs, targets = draw("values")
  measure = named("values", within)["within"]
  found = measure.value(measure.sums(outputs, targets, jnp.ones(40, bool)))
  expected = np.mean(np.all(np.abs(outputs - targets) < 0.5, axis=-1))
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [4, 500])
@pytest.mark.parametrize("kind", LOSSES)
def test_models_are_measured_by_the_outputs_of_their_score(kind, batch_size):
  """And the score is, to the bit, what it is without measures."""
  _, targets = draw(kind, 90)
  inputs = np.random.default_rng(1).normal(size=(90, 4)).astype(np.float32)
  classes = WIDTH if kind == "classes" else None
  dataset = from_arrays(inputs, targets, targets=kind, num_classes=classes)
  parts = partition(dataset, "iid", CLIENTS)
  data = make_federation(dataset, parts).client(jnp.int32(1))
  model = create_model("mlp", WIDTH, features=(8,))
  params, stats = model.init(jax.random.key(3), inputs[:1])
  variants = {"a": (params, stats, model), "same": (params, stats, model)}
  measures = named(kind)

  @jax.jit
  def both(data):
    alone = evaluate.scores(variants, data, ("test",), batch_size)
    return alone, evaluate.with_measures(
      variants, data, ("test",), measures, batch_size
    )

  alone, found = both(data)
  score, sums = found["test"]["a"]
  assert score == alone["test"]["a"]
  assert tiny.largest_difference(found["test"]["same"], (score, sums)) == 0
  rows = parts.test[1]
  outputs, _ = model.apply(params, stats, inputs[rows], False)
  expected = by_hand(kind, np.asarray(outputs), np.asarray(targets)[rows])
  for name, measure in measures.items():
    value = measure.value(jax.tree.map(np.asarray, sums[name]))
    np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
