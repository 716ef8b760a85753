import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from quped_jax.methods.blocks import logistic

FIT = jax.jit(logistic.fit)


def samples(seed, apart, first=30, second=50, width=5):
  """Features of two classes, with some rows after them that do not count."""
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(first + second + 7, width))
  of_first = np.arange(len(features)) < first
  features[:first] += apart
  features /= np.linalg.norm(features, axis=1).max()
  counts = np.arange(len(features)) < first + second
  features[~counts] = 100.0
  features = features.astype(np.float32)
  return tuple(map(jnp.asarray, (features, of_first, counts)))


@pytest.mark.parametrize(
  ("apart", "penalty"), [(0.5, 0.01), (5.0, 0.01), (5.0, 1e-5), (0.0, 10.0)]
)
def test_it_is_that_of_scikit_learn(apart, penalty):
  """Also where the classes can be told apart without an error."""
  features, first, counts = samples(1, apart)
  found = FIT(features, first, counts, penalty)
  features, first, counts = map(np.asarray, (features, first, counts))
  n = int(counts.sum())
  known = LogisticRegression(C=1 / (n * penalty), tol=1e-8, max_iter=10000)
  known.fit(features[counts], first[counts])
  np.testing.assert_allclose(
    found.probability(features[counts]),
    known.predict_proba(features[counts])[:, 1],
    atol=2e-4,
  )
  if penalty > 1e-3:
    np.testing.assert_allclose(found.weights, known.coef_[0], atol=2e-3)
    np.testing.assert_allclose(found.intercept, known.intercept_, atol=2e-3)


def test_ten_steps_are_enough():
  features, first, counts = samples(2, 1.0)
  ends = [
    logistic.fit(features, first, counts, 0.01, steps=steps)
    for steps in (10, 40)
  ]
  np.testing.assert_allclose(ends[0].weights, ends[1].weights, atol=1e-4)


def test_rows_that_do_not_count_change_nothing():
  features, first, counts = samples(3, 1.0)
  other = features.at[-1].set(-3.0)
  np.testing.assert_array_equal(
    FIT(features, first, counts, 0.01).weights,
    FIT(other, first, counts, 0.01).weights,
  )
