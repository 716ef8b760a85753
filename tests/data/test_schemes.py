"""Who gets which samples, by scheme."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.data import (
  SCHEMES,
  from_arrays,
  load_dataset,
  partition,
)
from tests.data.divided import (
  MOVED,
  NAMES,
  all_rows,
  counts,
  make_dataset,
  train_and_test,
)


def test_these_are_the_schemes():
  assert sorted(SCHEMES) == NAMES


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10), st.booleans())
def test_iid_is_even(num_clients, seed, has_test):
  dataset = make_dataset(num_test=300 if has_test else 0)
  split = partition(dataset, "iid", num_clients, seed=seed)
  sizes = [len(rows) for rows in split.train]
  if has_test:
    assert max(sizes) - min(sizes) <= 1
  assert len(all_rows(split)) == len(dataset.labels)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pathological(data):
  num_classes = data.draw(st.integers(2, 9))
  per_client = data.draw(st.integers(1, num_classes))
  fewest = -(-num_classes // per_client)
  num_clients = data.draw(st.integers(fewest, fewest + 12))
  dataset = make_dataset(
    num_train=1000, num_classes=num_classes, seed=data.draw(st.integers(0, 9))
  )
  split = partition(
    dataset, "pathological", num_clients, classes_per_client=per_client
  )
  train = counts(dataset, split.train)
  assert (np.count_nonzero(train, axis=1) == per_client).all()
  holders = np.count_nonzero(train, axis=0)
  assert holders.min() >= 1
  assert holders.max() - holders.min() <= 1
  for of_class in train.T:
    held = of_class[of_class > 0]
    assert held.max() - held.min() <= 1
  test = counts(dataset, split.test)
  assert not test[train == 0].any()
  for of_class, held in zip(test.T, train.T > 0, strict=True):
    assert of_class[held].max() - of_class[held].min() <= 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_label_quantity(data):
  num_classes = data.draw(st.integers(2, 9))
  per_client = data.draw(st.integers(1, num_classes))
  num_clients = data.draw(st.integers(num_classes, 3 * num_classes))
  dataset = make_dataset(num_train=1000, num_classes=num_classes)
  seed = data.draw(st.integers(0, 9))
  split = partition(
    dataset,
    "label_quantity",
    num_clients,
    seed=seed,
    classes_per_client=per_client,
  )
  train = counts(dataset, split.train)
  assert (np.count_nonzero(train, axis=1) == per_client).all()
  # Client i holds class i, round and round, so that no class is left over.
  own = np.arange(num_clients)
  assert (train[own, own % num_classes] > 0).all()
  assert train.sum() == 1000
  for of_class in train.T:
    held = of_class[of_class > 0]
    assert held.max() - held.min() <= 1


def test_label_quantity_leaves_to_chance_how_many_hold_a_class():
  dataset = make_dataset(num_classes=10, num_train=1000)
  holders = []
  for seed in range(200):
    split = partition(
      dataset, "label_quantity", 10, seed=seed, classes_per_client=2
    )
    holders.append(np.count_nonzero(counts(dataset, split.train), axis=0))
  # One for sure, and each of the 9 others with chance 1 in 9.
  assert np.mean(holders) == 2
  assert np.var(holders) == pytest.approx(9 * 1 / 9 * 8 / 9, abs=0.1)


def test_pathological_clients_differ():
  dataset = make_dataset(num_classes=10, num_train=1000)
  split = partition(dataset, "pathological", 20, classes_per_client=5)
  held = counts(dataset, split.train) > 0
  assert len(np.unique(held, axis=0)) > 5


@settings(max_examples=40, deadline=None)
@MOVED
@given(
  st.integers(1, 30),
  st.sampled_from([1e-300, 1e-4, 0.1, 1.0, 100.0, 1e6]),
  st.integers(2, 20),
  st.integers(0, 5),
)
def test_dirichlet_keeps_min_size(num_clients, alpha, min_size, seed):
  dataset = make_dataset(num_test=0)
  split = partition(
    dataset, "dirichlet", num_clients, alpha=alpha, min_size=min_size, seed=seed
  )
  sizes = [
    len(train) + len(test)
    for train, test in zip(split.train, split.test, strict=True)
  ]
  assert min(sizes) >= min_size
  assert sum(sizes) == len(dataset.labels)


@MOVED
def test_dirichlet_tightest_min_size_is_even():
  split = partition(
    make_dataset(num_test=0), "dirichlet", 60, alpha=0.01, min_size=10
  )
  assert {len(a) + len(b) for a, b in train_and_test(split)} == {10}


@MOVED
def test_dirichlet_moves_samples_of_any_class():
  # At first every class belongs to one client; then the larger client gives
  # samples of all its classes to the smaller one.
  dataset = make_dataset(num_test=0)
  split = partition(dataset, "dirichlet", 2, alpha=1e-300, min_size=300, seed=0)
  held = counts(dataset, split.train)
  assert (held > 0).all(axis=1).sum() == 1


def test_a_partition_that_is_no_longer_dirichlet_says_so():
  """Of 100 clients with alpha 0.01, most have no samples at first."""
  digits = load_dataset("digits")
  with pytest.warns(UserWarning) as caught:
    partition(digits, "dirichlet", 100, alpha=0.01, min_size=16, seed=0)
  (warning,) = caught
  assert re.match(
    r"partition='dirichlet': \d\d of 100 clients .* min_size=16 .* "
    r"\d+ of all 1797 \(\d\d %\)",
    str(warning.message),
  )


def test_a_dirichlet_partition_that_was_hardly_changed_is_none_to_warn_of():
  digits = load_dataset("digits")
  partition(digits, "dirichlet", 40, alpha=0.5, min_size=10, seed=0)


def test_as_alpha_grows_all_shares_become_equal():
  dataset = make_dataset(num_test=0)
  for alpha in (1e30, 1.7e308):
    split = partition(dataset, "dirichlet", 4, alpha=alpha, seed=0)
    sizes = [len(a) + len(b) for a, b in train_and_test(split)]
    assert min(sizes) > 100


@MOVED
def test_dirichlet_alpha_sets_the_skew():
  dataset = make_dataset(num_train=6000)

  def skew(alpha):
    split = partition(dataset, "dirichlet", 10, alpha=alpha, min_size=60)
    mix = counts(dataset, split.train) / [[len(r)] for r in split.train]
    return mix.max(axis=1).mean()

  assert skew(0.05) > 0.6 > 0.45 > skew(1.0) > 0.25 > skew(1000.0)


@pytest.mark.parametrize("num_test", [0, 300])
def test_natural_says_which_groups_each_client_got(num_test):
  dataset = make_dataset(num_test=num_test)
  split = partition(dataset, "natural", 6, groups_per_client=3)
  assert dataset.groups is not None and split.groups is not None
  for rows, names in zip(split.train, split.groups, strict=True):
    assert len(names) == 3
    assert set(names) == set(map(str, dataset.groups[rows]))
  assert partition(dataset, "iid", 6).groups is None


def test_groups_of_any_number_take_no_memory():
  size = 40
  dataset = from_arrays(
    np.zeros((size, 1)),
    np.arange(size) % 2,
    is_test=np.arange(size) % 4 < 2,
    groups=np.where(np.arange(size) < 20, 0, 2**31 - 1),
  )
  split = partition(dataset, "natural", 2, groups_per_client=1)
  assert split.groups is not None
  assert sorted(split.groups) == [("0",), ("2147483647",)]


def test_shards_hold_few_classes():
  dataset = make_dataset()  # 100 samples of each class, shards of 30.
  split = partition(dataset, "shards", 10, shards_per_client=2)
  assert {len(rows) for rows in split.train} == {60}
  assert np.count_nonzero(counts(dataset, split.train), axis=1).max() <= 4
  assert counts(dataset, split.train).max(axis=1).min() >= 15


@pytest.mark.parametrize("num_test", [0, 300])
def test_natural_keeps_groups_together(num_test):
  dataset = make_dataset(num_test=num_test)
  split = partition(dataset, "natural", 6, groups_per_client=3)
  assert dataset.groups is not None
  seen = set()
  for train, test in train_and_test(split):
    groups = set(dataset.groups[train])
    assert groups == set(dataset.groups[test])
    assert len(groups) == 3
    assert not groups & seen
    seen |= groups
    # All samples of the groups.
    mine = np.isin(dataset.groups, list(groups))
    assert mine.sum() == len(train) + len(test)


def test_natural_needs_groups():
  dataset = dataclasses.replace(make_dataset(), groups=None)
  with pytest.raises(
    ValueError, match="^partition='natural': must be .* for 'toy'"
  ):
    partition(dataset, "natural", 3, groups_per_client=2)


def sizes_of(split):
  return np.array([len(a) + len(b) for a, b in train_and_test(split)])


def test_self_balancing_clients_are_of_similar_sizes_with_skewed_classes():
  """One that is full gets nothing more: at most the last class overfills it."""
  dataset = make_dataset(num_test=0, num_train=1200)
  plain, balanced = (
    partition(dataset, "dirichlet", 8, alpha=0.3, seed=1, self_balancing=on)
    for on in (False, True)
  )
  assert sizes_of(balanced).max() < 1200 / 8 + 200
  assert np.std(sizes_of(balanced)) < 0.6 * np.std(sizes_of(plain))
  mix = counts(dataset, balanced.train)
  assert (mix.max(axis=1) / mix.sum(axis=1)).mean() > 0.4


def test_self_balancing_gives_nothing_to_those_that_are_full():
  """With tiny alpha a class goes to one client, each time to another."""
  dataset = make_dataset(num_test=0)  # 6 classes of 100 samples.
  split = partition(
    dataset, "dirichlet", 6, alpha=1e-4, seed=3, self_balancing=True
  )
  assert (sizes_of(split) == 100).all()
  assert (np.count_nonzero(counts(dataset, split.train), axis=1) == 1).all()


def test_quantity_skews_sizes_and_not_classes():
  dataset = make_dataset(num_train=6000, num_test=0)
  split = partition(dataset, "quantity", 5, alpha=0.7, seed=0)
  sizes = sizes_of(split)
  assert sizes.sum() == 6000
  assert sizes.max() > 3 * sizes.min()
  for own, size in zip(counts(dataset, split.train), sizes, strict=True):
    share = own / own.sum()
    assert (np.abs(share - 1 / 6) < 2 / np.sqrt(size)).all()
  even = partition(dataset, "quantity", 5, alpha=1e9, seed=0)
  assert np.ptp(sizes_of(even)) < 300


def test_quantity_keeps_min_size_and_says_what_that_took():
  dataset = make_dataset(num_test=0)
  with pytest.warns(UserWarning, match=r"^partition='quantity': \d+ of 20 cl"):
    split = partition(dataset, "quantity", 20, alpha=0.05, min_size=15, seed=0)
  assert sizes_of(split).min() >= 15


def test_quantity_divides_targets_that_are_no_classes():
  values = np.random.default_rng(0).normal(size=(100, 1))
  dataset = from_arrays(values, values, targets="values")
  split = partition(dataset, "quantity", 4, alpha=5.0, min_size=2)
  assert sizes_of(split).sum() == 100


def test_a_few_clients_that_were_topped_up_are_said_too():
  """Though few samples were moved: one of ten clients had too few."""
  digits = load_dataset("digits")
  with pytest.warns(
    UserWarning, match=r"2 of 10 clients had .* got \d+ of all 1797 \(\d"
  ):
    partition(digits, "dirichlet", 10, alpha=0.1, min_size=60, seed=2)


def test_natural_takes_all_groups_unless_fewer_clients_are_asked_for():
  dataset = make_dataset()
  assert len(partition(dataset, "natural").train) == 20
  assert len(partition(dataset, "natural", groups_per_client=3).train) == 6
  assert len(partition(dataset, "natural", 4).train) == 4
  with pytest.raises(ValueError, match="^clients=None: must be a whole"):
    partition(dataset, "iid")
