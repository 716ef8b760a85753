"""Whole samples in proportion."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.data.proportions import apportion, split_by_class

WEIGHTS = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), WEIGHTS, st.integers(0, 3))
def test_what_is_divided_is_divided_whole_and_within_one(total, weights, seed):
  weights = np.array(weights)
  shares = apportion(total, weights, np.random.default_rng(seed))
  assert shares.sum() == total
  exact = total * weights / weights.sum()
  assert (np.abs(shares - exact) < 1).all()


def test_each_class_is_split_alike():
  labels = np.repeat([0, 1, 2], [40, 20, 10])
  rows = np.arange(70)
  first, second = split_by_class(rows, labels, 0.5, 1, np.random.default_rng(0))
  assert np.bincount(labels[first]).tolist() == [20, 10, 5]
  assert sorted([*first, *second]) == rows.tolist()


def test_one_row_goes_to_the_first_part():
  row = np.array([3])
  first, second = split_by_class(
    row, np.zeros(9, int), 0.2, 1, np.random.default_rng(0)
  )
  assert first.tolist() == [3] and not second.size
