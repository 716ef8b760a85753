"""Datasets to divide, and what became of them."""

import numpy as np
import pytest

from quped_jax.data import (
  Dataset,
  from_arrays,
)

OPTIONS = {
  "iid": {},
  "pathological": {"classes_per_client": 3},
  "label_quantity": {"classes_per_client": 3},
  "dirichlet": {"alpha": 0.5, "min_size": 4},
  "quantity": {"alpha": 2.0, "min_size": 4},
  "shards": {"shards_per_client": 2},
  "natural": {"groups_per_client": 2},
}


# Where it is meant that samples move, however many.
MOVED = pytest.mark.filterwarnings(
  "ignore:partition='(dirichlet|quantity)'.*min_size:UserWarning"
)

# Written out, so that a lost one is noticed.
NAMES = [
  "dirichlet",
  "iid",
  "label_quantity",
  "natural",
  "pathological",
  "quantity",
  "shards",
]


def make_dataset(
  num_train=600, num_test=300, num_classes=6, num_groups=20, seed=0
) -> Dataset:
  """Shuffled samples of balanced classes; num_test=0: no test split."""
  rng = np.random.default_rng(seed)
  size = num_train + num_test
  order = rng.permutation(size)
  return from_arrays(
    np.zeros((size, 1), np.uint8),
    (np.arange(size) % num_classes)[order],
    name="toy",
    num_classes=num_classes,
    is_test=(np.arange(size) >= num_train)[order] if num_test else None,
    groups=rng.integers(0, num_groups, size),
  )


def counts(dataset, rows):
  """Samples of each class for each client, [clients, classes]."""
  return np.array(
    [
      np.bincount(dataset.labels[r], minlength=dataset.num_classes)
      for r in rows
    ]
  )


def train_and_test(split):
  return zip(split.train, split.test, strict=True)


def all_rows(split):
  return np.concatenate([*split.train, *split.validation, *split.test])
