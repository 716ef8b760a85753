"""Tables over all clients, of what is found of some."""

import numpy as np

from quped_jax.simulation import client_tables
from quped_jax.simulation.measures import Mean, Measure


def found():
  """Two parts; of the second one slot is empty, and one variant is missing."""
  first = (
    {"a": np.array([2, 0])},
    {"a": {"test": {"own": np.array([0.2, 0.0]), "w": np.array([1.2, 1.0])}}},
  )
  second = (
    {"a": np.array([1, -1]), "b": np.array([3])},
    {
      "a": {"test": {"own": np.array([0.1, 9.0])}},
      "b": {"test": {"own": np.array([0.3]), "w": np.array([1.3])}},
    },
  )
  return [first, second]


def test_each_client_has_its_row_and_nobody_anothers():
  table = client_tables.table(found(), 5)
  assert set(table) == {"test"}
  nan = np.nan
  np.testing.assert_allclose(table["test"]["own"], [0, 0.1, 0.2, 0.3, nan])
  np.testing.assert_allclose(table["test"]["w"], [1, nan, 1.2, 1.3, nan])


def test_scores_and_measures_are_told_apart():
  def with_sums(values):
    return values, {"m": Mean(10 * values, np.full_like(values, 2.0))}

  parts = [
    (
      ids,
      {
        cohort: {
          split: {name: with_sums(x) for name, x in variants.items()}
          for split, variants in splits.items()
        }
        for cohort, splits in cohorts.items()
      },
    )
    for ids, cohorts in found()
  ]
  mean = Measure(lambda *_: None, lambda sums: sums.total / sums.count)
  scores, measures = client_tables.scores_and_measures(parts, 5, {"m": mean})
  nan = np.nan
  np.testing.assert_allclose(scores["test"]["own"], [0, 0.1, 0.2, 0.3, nan])
  own = measures["test"]["m"]["own"]
  np.testing.assert_allclose(own.clients, [0, 0.5, 1.0, 1.5, nan])
  np.testing.assert_allclose(own.pooled, 6 / 8, rtol=1e-6)
