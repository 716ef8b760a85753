"""What is known of a table: rows, and how far they are apart over seeds."""

import numpy as np
import pytest
from scipy import stats

from experiments.paper import found
from experiments.paper.records import Key, Store
from quped_jax.experiment.comparison.plan import Row
from tests.experiments.paper import tables

OURS, LOCAL = Row("quped", (32,)), Row("local", (32,))


def make(tmp_path, scores):
  """What is known of runs with such scores, {row: [seeds][clients]}."""
  store, table = Store(tmp_path), tables.table(bits="32")
  for row, of_row in scores.items():
    for seed, own in enumerate(of_row):
      store.add(Key("", row, seed), tables.record(own))
  return found.find(table, table.parts[0], store)


def test_a_seed_gives_one_difference_of_means(tmp_path):
  known = make(
    tmp_path,
    {
      OURS: [[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.9]],
      LOCAL: [[0.8, 0.8, 0.8, 0.4], [0.5, 0.3, 0.5, 0.7]],
    },
  )
  np.testing.assert_allclose(known.apart(OURS, LOCAL), [0.05, 0.1])
  np.testing.assert_allclose(known.apart(OURS, LOCAL, "mlp@2"), [0.05, 0.1])
  np.testing.assert_allclose(known.apart(OURS, LOCAL, "mlp@32"), [0.05, 0.1])
  np.testing.assert_allclose(known.apart(LOCAL, OURS), [-0.05, -0.1])
  assert known.difference(OURS, LOCAL).mean == pytest.approx(0.075)


def test_only_clients_of_the_type_count(tmp_path):
  known = make(
    tmp_path,
    {OURS: [[0.9, 0.7, 0.1, 0.3]] * 2, LOCAL: [[0.5, 0.5, 0.2, 0.2]] * 2},
  )
  np.testing.assert_allclose(known.apart(OURS, LOCAL, "mlp@2"), [0.3, 0.3])
  np.testing.assert_allclose(known.apart(OURS, LOCAL, "mlp@32"), [0, 0])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_is_that_of_the_t_test(count):
  apart = np.random.default_rng(count).normal(0.01, 0.02, count)
  expected = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
  own = found.over_seeds(apart)
  assert own.mean == pytest.approx(apart.mean())
  assert (own.low, own.high) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_no_interval():
  assert found.over_seeds(np.array([0.2])) == (0.2, None, None)
