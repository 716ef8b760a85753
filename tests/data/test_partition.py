"""Partitions: what holds for every scheme."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quped_jax.data import (
  Partition,
  draw_public,
  from_arrays,
  partition,
)
from quped_jax.data.partition import checked_partition
from tests.data.divided import (
  MOVED,
  NAMES,
  OPTIONS,
  all_rows,
  counts,
  make_dataset,
  train_and_test,
)


@pytest.mark.parametrize("num_test", [0, 300])
@pytest.mark.parametrize("scheme", NAMES)
def test_every_scheme(scheme, num_test):
  dataset = make_dataset(num_test=num_test)
  split = partition(
    dataset, scheme, 7, seed=1, validation_fraction=0.25, **OPTIONS[scheme]
  )
  rows = all_rows(split)
  assert rows.dtype == np.int32
  assert len(np.unique(rows)) == len(rows)
  if scheme != "natural":
    assert len(rows) == len(dataset.labels)
  assert len(split.train) == len(split.validation) == len(split.test) == 7
  for train, validation, test in zip(
    split.train, split.validation, split.test, strict=True
  ):
    assert len(train) and len(test)
    size = len(train) + len(validation)
    assert abs(len(validation) - 0.25 * size) <= 0.5
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    if dataset.is_test is not None:
      assert dataset.is_test[test].all()
      assert not dataset.is_test[train].any()
      assert not dataset.is_test[validation].any()
  assert all(len(validation) for validation in split.validation)


@pytest.mark.parametrize("scheme", NAMES)
def test_seed_decides(scheme):
  dataset = make_dataset()
  first, again, other = (
    all_rows(partition(dataset, scheme, 6, seed=seed, **OPTIONS[scheme]))
    for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"num_clients": 2.5}, "clients=2.5: must be a whole number"),
    ({"num_clients": "3"}, "clients='3': must be a whole number"),
    ({"seed": -1}, "seed=-1: must be at least 0"),
    ({"seed": None}, "seed=None: must be a whole number"),
    ({"scheme": ["iid"]}, r"partition=\['iid'\]: must be one of"),
    ({"classes_per_client": 1.5}, "classes_per_client=1.5: must be a whole"),
    ({"alpha": "a"}, "alpha='a': must be a number"),
    ({"min_size": True}, "min_size=True: must be a whole number"),
    ({"train_fraction": None}, "train_fraction=None: must be a number"),
    ({"validation_fraction": 1j}, "validation_fraction=1j: must be a number"),
    ({"exclude": [True, False]}, "exclude: must be row numbers, integers"),
    ({"exclude": [900]}, "exclude: must hold rows from 0 to 899"),
    ({"dataset": ([[0.0]], [0])}, "dataset: must be a Dataset, .* got tuple"),
  ],
)
def test_odd_arguments_are_named(changes, message):
  arguments = {"dataset": make_dataset(), "scheme": "iid", "num_clients": 3}
  with pytest.raises(ValueError, match=f"^{message}"):
    partition(**arguments | changes)


def test_numbers_of_numpy_are_numbers():
  dataset, number = make_dataset(), np.int64
  given: dict[str, Any] = {"seed": number(3), "shards_per_client": number(2)}
  clients: Any = number(5)
  split = partition(dataset, "shards", clients, **given)
  plain = partition(dataset, "shards", 5, seed=3, shards_per_client=2)
  np.testing.assert_array_equal(all_rows(split), all_rows(plain))
  np.testing.assert_array_equal(
    draw_public(dataset, clients), draw_public(dataset, 5)
  )


def test_rows_are_row_numbers_and_not_a_mask():
  nothing = (np.zeros(0),)
  test: Any = ([1],)
  rows: Any = [0, 2]
  listed = checked_partition(Partition((rows,), nothing, test), 3)
  assert listed.train[0].dtype == listed.validation[0].dtype == np.int32
  for rows in ([True, False], [0.0, 1.0], [[0, 1]], ["a"]):
    with pytest.raises(ValueError, match=r"^partition.train\[0\]: must be row"):
      checked_partition(Partition((rows,), nothing, test), 3)
  with pytest.raises(ValueError, match="^partition: must be a Partition"):
    checked_partition(([0],), 3)  # pyright: ignore[reportArgumentType]


@settings(max_examples=30, deadline=None)
@given(
  st.sampled_from([name for name in NAMES if name != "natural"]),
  st.integers(0, 20),
)
def test_test_split_follows_the_class_mix(scheme, seed):
  dataset = make_dataset(num_train=1200)
  split = partition(dataset, scheme, 6, seed=seed, **OPTIONS[scheme])
  train, test = counts(dataset, split.train), counts(dataset, split.test)
  # 1200 training and 300 test samples: a quarter, to within one sample.
  assert np.abs(test - train / 4).max() < 1
  assert (test.sum(axis=0) == 50).all()


def test_validation_of_groups_is_as_their_test_samples_of_any_class():
  # 30 training samples of 15 classes for each of the groups.
  dataset = make_dataset(num_classes=15)
  split = partition(
    dataset, "natural", 10, groups_per_client=2, validation_fraction=0.3
  )
  train = counts(dataset, split.train)
  validation = counts(dataset, split.validation)
  sizes = (train + validation).sum(axis=1)
  np.testing.assert_array_equal(train.sum(axis=1), np.round(0.7 * sizes))
  # In proportion no class would be wholly among the held out ones.
  assert ((train == 0) & (validation > 0)).any()


@settings(max_examples=30, deadline=None)
@MOVED
@given(st.sampled_from(NAMES), st.floats(0.2, 0.9), st.integers(0, 20))
def test_fraction_holds_in_every_class(scheme, fraction, seed):
  dataset = make_dataset(num_test=0)
  split = partition(
    dataset, scheme, 6, seed=seed, train_fraction=fraction, **OPTIONS[scheme]
  )
  train, test = counts(dataset, split.train), counts(dataset, split.test)
  sizes = (train + test).sum(axis=1)
  inner = np.round(fraction * sizes).clip(1, sizes - 1)
  np.testing.assert_array_equal(train.sum(axis=1), inner)
  expected = inner[:, None] / sizes[:, None] * (train + test)
  assert np.abs(train - expected).max() < 1


def test_validation_follows_the_class_mix():
  dataset = make_dataset()
  whole = partition(dataset, "shards", 5, shards_per_client=2)
  split = partition(
    dataset, "shards", 5, shards_per_client=2, validation_fraction=0.5
  )
  for rows, train, validation in zip(
    whole.train, split.train, split.validation, strict=True
  ):
    np.testing.assert_array_equal(
      rows, np.sort(np.concatenate([train, validation]))
    )
  train = counts(dataset, split.train)
  assert np.abs(train - counts(dataset, split.validation)).max() <= 1
  assert all(len(rows) == 0 for rows in whole.validation)


def test_one_training_sample_is_not_given_to_validation():
  dataset = make_dataset(num_train=6, num_test=60)
  split = partition(dataset, "iid", 6, validation_fraction=0.9)
  assert [len(rows) for rows in split.train] == [1] * 6


@pytest.mark.parametrize(
  ("scheme", "num_clients", "options", "message"),
  [
    ("random", 5, {}, "partition='random': must be one of .*shards"),
    ("iid", 0, {}, "clients=0: must be between 1 and 600"),
    ("iid", 601, {}, "clients=601: must be between 1 and 600"),
    ("iid", 5, {"train_fraction": 1.0}, r"train_fraction=1.0: .*\(0, 1\)"),
    ("iid", 5, {"train_fraction": 0.0}, r"train_fraction=0.0: .*\(0, 1\)"),
    (
      "iid",
      5,
      {"validation_fraction": 1.0},
      r"validation_fraction=1.0: .*\[0, 1\)",
    ),
    ("pathological", 5, {}, "classes_per_client=None: must be given"),
    ("dirichlet", 5, {}, "alpha=None: must be given"),
    ("shards", 5, {}, "shards_per_client=None: must be given"),
    (
      "pathological",
      5,
      {"classes_per_client": 7},
      "classes_per_client=7: must be between 1 and 6, the number of classes "
      "in 'toy'",
    ),
    ("pathological", 5, {"classes_per_client": 0}, "classes_per_client=0: "),
    (
      "pathological",
      2,
      {"classes_per_client": 2},
      "classes_per_client=2: must be at least 3",
    ),
    (
      "pathological",
      120,
      {"classes_per_client": 6},
      "clients=120: must be less, as class 0 of 'toy' has 100 samples",
    ),
    (
      "label_quantity",
      5,
      {"classes_per_client": 2},
      "clients=5: must be at least 6, the number of classes in 'toy'",
    ),
    ("label_quantity", 6, {}, "classes_per_client=None: must be given"),
    ("dirichlet", 5, {"alpha": 0.0}, "alpha=0.0: must be positive"),
    ("dirichlet", 5, {"alpha": float("nan")}, "alpha=nan: must be positive"),
    (
      "dirichlet",
      5,
      {"alpha": 1.0, "min_size": 121},
      "min_size=121: must be between 1 and 120",
    ),
    ("dirichlet", 5, {"alpha": 1.0, "min_size": 0}, "min_size=0: "),
    (
      "shards",
      5,
      {"shards_per_client": 121},
      "shards_per_client=121: must be between 1 and 120",
    ),
    ("natural", 21, {"groups_per_client": 1}, "groups_per_client=1: .* 20"),
    ("natural", 5, {"groups_per_client": 5}, "groups_per_client=5: .* 20"),
    ("natural", 5, {"groups_per_client": 0}, "groups_per_client=0: "),
    ("iid", 500, {}, r"partition='iid': client \d+ has no test data"),
  ],
)
def test_errors(scheme, num_clients, options, message):
  with pytest.raises(ValueError, match=message):
    partition(make_dataset(), scheme, num_clients, **options)


def test_every_client_keeps_a_test_sample():
  split = partition(make_dataset(num_test=0), "iid", 300, train_fraction=0.99)
  assert {len(rows) for rows in split.test} == {1}


def test_a_lone_sample_leaves_no_test_data():
  with pytest.raises(ValueError, match="partition='iid': client 0 has no test"):
    partition(make_dataset(num_test=0), "iid", 600)


def test_absent_classes_need_no_holder():
  dataset = dataclasses.replace(make_dataset(), num_classes=50)
  split = partition(dataset, "pathological", 3, classes_per_client=2)
  assert (counts(dataset, split.train)[:, :6].sum(axis=0) == 100).all()


@settings(max_examples=150, deadline=None)
@MOVED
@pytest.mark.filterwarnings("ignore:partition=.*no client has:UserWarning")
@given(st.data())
def test_any_few_samples_are_divided_or_refused(data):
  """One sample, one class, absent classes, more clients than samples."""
  labels = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
  column = st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))
  is_test = data.draw(st.none() | column)
  dataset = from_arrays(
    np.zeros((len(labels), 1)),
    np.array(labels),
    num_classes=4,
    is_test=None if is_test is None else np.array(is_test),
    groups=np.arange(len(labels)) // 2,
  )
  scheme = data.draw(st.sampled_from(NAMES))
  fraction = st.floats(0, 1, exclude_min=True, exclude_max=True)
  options = {
    "classes_per_client": data.draw(st.integers(1, 4)),
    "alpha": data.draw(st.sampled_from([5e-324, 1e-3, 1.0, 1e38, 1e300])),
    "min_size": data.draw(st.integers(0, 4)),
    "shards_per_client": data.draw(st.integers(1, 4)),
    "groups_per_client": data.draw(st.integers(1, 4)),
    "train_fraction": data.draw(fraction),
    "validation_fraction": data.draw(st.just(0.0) | fraction),
  }
  num_clients = data.draw(st.integers(1, len(labels) + 1))
  try:
    split = partition(dataset, scheme, num_clients, **options)
  except ValueError as error:
    named = ("clients=", "partition=", *(f"{option}=" for option in options))
    assert str(error).startswith(named)
    return
  rows = all_rows(split)
  assert len(np.unique(rows)) == len(rows)
  for train, test in train_and_test(split):
    assert len(train) and len(test)


def test_a_client_without_test_samples_is_named_with_its_groups():
  dataset = from_arrays(
    np.eye(5), [0, 1, 0, 1, 0], groups=["a", "a", "b", "b", "c"]
  )
  with pytest.raises(
    ValueError, match=r"^partition='natural': client \d \(c\) has no test"
  ):
    partition(dataset, "natural")


def test_classes_that_no_client_has_are_said():
  groups = np.repeat([0, 1, 2], 10)
  dataset = from_arrays(np.eye(30), groups, groups=groups)
  with pytest.warns(
    UserWarning, match="^partition='natural': no client .* 1 of the classes"
  ):
    partition(dataset, "natural", 2, seed=0)
  partition(dataset, "natural", 3, seed=0)
