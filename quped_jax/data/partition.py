"""Who holds which samples: a dataset divided among clients.

A scheme (`schemes.py`) gives every training sample an owner. What follows is
the same for all schemes: test data in each client's own class mix, validation
data taken from the training data, and the checks.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from quped_jax import checks
from quped_jax.data import arrays, targets
from quped_jax.data.dataset import Dataset
from quped_jax.data.proportions import apportion, split_by_class
from quped_jax.data.schemes import (
  NOBODY,
  SCHEMES,
  WITHOUT_CLASSES,
  Pool,
  checked_groups,
)
from quped_jax.short_repr import short_repr

# How many classes a message lists.
_LISTED = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
  """Row numbers into a dataset, one sorted int32 array for each client.

  Attributes:
    train: Rows of the training data, `[clients][rows]`.
    validation: Rows of the validation data, possibly none.
    test: Rows of the test data.
    groups: Names of the groups that each client got, `[clients][groups]`, of
      the scheme "natural"; None of others.
  """

  train: tuple[np.ndarray, ...]
  validation: tuple[np.ndarray, ...]
  test: tuple[np.ndarray, ...]
  groups: tuple[tuple[str, ...], ...] | None = None

  __repr__ = short_repr


def partition(
  dataset: Dataset,
  scheme: str,
  num_clients: int | None = None,
  *,
  seed: int = 0,
  classes_per_client: int | None = None,
  alpha: float | None = None,
  min_size: int = 1,
  self_balancing: bool = False,
  shards_per_client: int | None = None,
  groups_per_client: int | None = None,
  train_fraction: float = 0.5,
  validation_fraction: float = 0.0,
  exclude: np.ndarray | None = None,
) -> Partition:
  """Divides a dataset among clients; no sample goes to two of them.

  Schemes, each with the option that it needs:

  - "iid": every client gets an equal part of all samples.
  - "pathological" (`classes_per_client`): each client holds exactly that many
    classes; every class has a holder; the samples of a class are split evenly
    among its holders.
  - "label_quantity" (`classes_per_client`): likewise, but how many clients hold
    a class is left to chance: client i holds class i, counted round and round,
    and others at random. Source: Li et al., 2022 (NIID-Bench).
  - "dirichlet" (`alpha`): the samples of each class are divided in proportions
    drawn from Dirichlet(alpha); then clients with fewer than `min_size` samples
    get some from the largest. Source: Hsu et al., 2019. With `self_balancing`,
    a client that already has an equal part of all samples gets none of the
    classes that follow, so that clients are of similar sizes. Source:
    Yurochkin et al., 2019; Li et al., 2022 (NIID-Bench).
  - "quantity" (`alpha`): clients differ in how many samples they have, in
    proportions drawn from Dirichlet(alpha), and not in their classes; then
    `min_size` likewise. Source: Li et al., 2022 (NIID-Bench).
  - "shards" (`shards_per_client`): samples sorted by label are cut into shards,
    and each client gets some at random. Source: McMahan et al., 2017.
  - "natural" (`groups_per_client`): each client gets that many of the dataset's
    groups, such as writers; groups that are left over are not used. Without
    `num_clients`, there are as many clients as the groups suffice for.

  A dataset's own test samples (`is_test`) of a class are divided among the
  clients in proportion to their training samples of that class; under "natural"
  they go to the client that holds their group. Without a test split, each
  client's samples of a class are split by `train_fraction`. Validation samples
  are taken from a client's training samples as its test samples are: with
  classes in proportion, but at random where test samples go by group. Samples
  whose
  targets are no classes can be divided by "iid", "quantity" and "natural", and
  count as of one class.

  Args:
    dataset: What to divide.
    scheme: One of `SCHEMES`.
    num_clients: Number of clients; may be left out for "natural".
    seed: Seed of every random choice.
    classes_per_client: Classes that each client holds.
    alpha: Concentration, positive; the smaller, the less alike clients are.
    min_size: Fewest samples that a client gets, before they are split. If many
      samples have to be moved for it, a warning says how many.
    self_balancing: Whether "dirichlet" keeps clients of similar sizes.
    shards_per_client: Shards that each client gets.
    groups_per_client: Groups that each client gets; None for one.
    train_fraction: Fraction of each client's samples to train on, in (0, 1).
      Not used if the dataset has a test split.
    validation_fraction: Fraction of each client's training samples to set aside
      for validation, in [0, 1).
    exclude: Rows that no client gets, such as those of a public set.

  Returns:
    The rows of each client.

  Raises:
    ValueError: If an option is missing or impossible, or a client would be left
      without training or test data.

  Examples:
    >>> inputs = np.random.default_rng(0).normal(size=(60, 3))
    >>> data = qj.from_arrays(inputs, np.arange(60) % 3)
    >>> parts = qj.partition(data, "pathological", 3, classes_per_client=2)
    >>> [len(rows) for rows in parts.train]
    [10, 10, 10]
    >>> len(set(data.labels[parts.train[0]].tolist()))
    2
  """
  checks.choice("partition", scheme, sorted(SCHEMES))
  checks.instance("dataset", dataset, Dataset, "from_arrays")
  if dataset.targets != "classes" and scheme not in WITHOUT_CLASSES:
    raise ValueError(
      f"partition={scheme!r}: must be one of {', '.join(WITHOUT_CLASSES)} for "
      f"{dataset.name!r}, whose targets are {dataset.targets} and no classes"
    )
  classes = targets.strata(dataset.labels)
  seed = checks.whole("seed", seed, 0)
  train_fraction, validation_fraction = _fractions(
    train_fraction, validation_fraction
  )
  is_test = dataset.is_test
  if is_test is None:
    is_test = np.zeros(len(dataset.labels), bool)
  free = ~is_test
  if exclude is not None:
    free[_checked_rows("exclude", exclude, len(free))] = False
  pool_rows = np.flatnonzero(free)
  groups = None if dataset.groups is None else dataset.groups[pool_rows]
  if scheme == "natural":
    groups_per_client = 1 if groups_per_client is None else groups_per_client
    if num_clients is None:
      num_clients = _most_clients(dataset.name, groups, groups_per_client)
  num_clients = checks.whole("clients", num_clients)
  if not 1 <= num_clients <= len(pool_rows):
    raise ValueError(
      f"clients={num_clients}: must be between 1 and {len(pool_rows)}, the "
      f"number of samples to divide in {dataset.name!r}"
    )
  pool = Pool(
    name=dataset.name,
    labels=classes[pool_rows],
    groups=groups,
    num_clients=num_clients,
    classes_per_client=_whole("classes_per_client", classes_per_client),
    alpha=None if alpha is None else checks.number("alpha", alpha),
    min_size=checks.whole("min_size", min_size),
    self_balancing=bool(self_balancing),
    shards_per_client=_whole("shards_per_client", shards_per_client),
    groups_per_client=_whole("groups_per_client", groups_per_client),
  )
  rng = np.random.default_rng(seed)
  owner = np.full(len(dataset.labels), NOBODY)
  owner[pool_rows] = SCHEMES[scheme](pool, rng)
  train = _rows_by_client(owner, num_clients)

  if dataset.is_test is None:
    parts = [
      split_by_class(rows, classes, train_fraction, 1, rng) for rows in train
    ]
    train, test = [part[0] for part in parts], [part[1] for part in parts]
  elif scheme == "natural":
    test = _rows_by_client(_owners_of_groups(dataset, owner), num_clients)
  else:
    shared = _share_test(classes, is_test, owner, pool, rng)
    test = _rows_by_client(shared, num_clients)

  names = _group_names(dataset, train) if scheme == "natural" else None
  _check_nobody_empty("training", train, scheme, names)
  _check_nobody_empty("test", test, scheme, names)
  _check_classes(dataset, classes, [*train, *test], scheme)
  # Where test samples go by group, validation samples are of any class too.
  by_group = scheme == "natural" and dataset.is_test is not None
  strata = np.zeros_like(classes) if by_group else classes
  parts = [
    split_by_class(rows, strata, 1 - validation_fraction, 0, rng)
    for rows in train
  ]
  return Partition(
    train=tuple(part[0] for part in parts),
    validation=tuple(part[1] for part in parts),
    test=tuple(test),
    groups=names,
  )


def _fractions(train: Any, validation: Any) -> tuple[float, float]:
  """Checks the shares of samples to train on, and to set aside of those."""
  train = checks.number("train_fraction", train)
  validation = checks.number("validation_fraction", validation)
  if not 0 < train < 1:
    raise ValueError(f"train_fraction={train}: must be in (0, 1)")
  if not 0 <= validation < 1:
    raise ValueError(f"validation_fraction={validation}: must be in [0, 1)")
  return train, validation


def _most_clients(name: str, groups: np.ndarray | None, each: Any) -> int:
  """For how many clients the groups suffice."""
  each = checks.whole("groups_per_client", each, 1)
  return max(len(np.unique(checked_groups(name, groups))) // each, 1)


def _whole(field, value) -> int | None:
  return None if value is None else checks.whole(field, value)


def _group_names(dataset, train) -> tuple[tuple[str, ...], ...]:
  """Returns the names of the groups of which each client has samples."""

  def name(group):
    return dataset.group_names[group] if dataset.group_names else str(group)

  return tuple(
    tuple(map(name, np.unique(dataset.groups[rows]).tolist())) for rows in train
  )


def _share_test(labels, is_test, owner, pool, rng) -> np.ndarray:
  """Returns the owner of each sample of the test split, by class mix."""
  test_owner = np.full_like(owner, NOBODY)
  for label in np.unique(pool.labels):
    of_class = labels == label
    holders = owner[of_class & ~is_test]
    holders = holders[holders != NOBODY]
    weights = np.bincount(holders, minlength=pool.num_clients)
    rows = rng.permutation(np.flatnonzero(of_class & is_test))
    counts = apportion(len(rows), weights, rng)
    test_owner[rows] = np.repeat(np.arange(pool.num_clients), counts)
  return test_owner


def _owners_of_groups(dataset, owner) -> np.ndarray:
  """Returns the owner of each sample of the test split, by group."""
  # Numbers without gaps: those of groups may be any that int32 holds.
  unique, groups = np.unique(dataset.groups, return_inverse=True)
  client_of_group = np.full(len(unique), NOBODY)
  owned = owner != NOBODY
  client_of_group[groups[owned]] = owner[owned]
  return np.where(dataset.is_test, client_of_group[groups], NOBODY)


def _rows_by_client(owner, num_clients) -> list[np.ndarray]:
  order = np.argsort(owner, kind="stable").astype(np.int32)
  ends = np.searchsorted(owner[order], np.arange(-1, num_clients), "right")
  return np.split(order, ends)[1:-1]


def draw_public(dataset: Dataset, size: int, *, seed: int = 0) -> np.ndarray:
  """Chooses the samples of a public set, with classes in proportion.

  Args:
    dataset: The dataset from whose training samples to choose.
    size: How many.
    seed: Of the choice.

  Returns:
    Their rows, sorted.

  Raises:
    ValueError: If size is less than 1, or would leave no training sample.
  """
  checks.instance("dataset", dataset, Dataset, "from_arrays")
  size = checks.whole("public_size", size)
  seed = checks.whole("seed", seed, 0)
  rows = np.arange(len(dataset.labels))
  if dataset.is_test is not None:
    rows = np.flatnonzero(~dataset.is_test)
  if not 1 <= size < len(rows):
    raise ValueError(
      f"public_size={size}: must be from 1 to {len(rows) - 1}, less than the "
      f"training samples of {dataset.name!r}"
    )
  rng = np.random.default_rng((seed, size))
  classes = targets.strata(dataset.labels)
  return split_by_class(rows, classes, size / len(rows), 1, rng)[0]


def checked_partition(parts: Partition, samples: int) -> Partition:
  """The partition with int32 rows, which the dataset has.

  Args:
    parts: who holds which rows.
    samples: number of rows that there are.

  Raises:
    ValueError: a client without training or test samples, or rows that are no
      row numbers.
  """
  checks.instance("partition", parts, Partition, "quped_jax.partition")
  found = {}
  for name in ("train", "validation", "test"):
    rows = getattr(parts, name)
    if not isinstance(rows, (tuple, list)) or not rows:
      raise ValueError(
        f"partition.{name}={checks.shown(rows)}: must be a tuple of the rows "
        "of each client"
      )
    clients = len(parts.train)
    if len(rows) != clients:
      raise ValueError(
        f"partition.{name}: must be of {clients} clients, as "
        f"partition.train is; got {len(rows)}"
      )
    found[name] = tuple(
      _checked_rows(f"partition.{name}[{i}]", own, samples)
      for i, own in enumerate(rows)
    )
    for i, own in enumerate(found[name]):
      if not len(own) and name != "validation":
        raise ValueError(
          f"partition.{name}[{i}]=[]: must hold at least one sample"
        )
  return dataclasses.replace(parts, **found)


def _checked_rows(field, rows, samples) -> np.ndarray:
  """Returns row numbers, which are integers and not a mask."""
  rows = arrays.as_array(field, rows)
  if not rows.size:  # Of whatever type.
    return np.zeros(0, np.int32)
  if rows.dtype.kind not in "iu" or rows.ndim != 1:
    raise ValueError(
      f"{field}: must be row numbers, integers [rows], as np.flatnonzero makes "
      f"of a mask; got {rows.dtype} {list(rows.shape)}"
    )
  if not 0 <= rows.min() <= rows.max() < samples:
    raise ValueError(
      f"{field}: must hold rows from 0 to {samples - 1}; got {rows.min()} to "
      f"{rows.max()}"
    )
  return rows.astype(np.int32)


def _check_nobody_empty(kind, rows_of_clients, scheme, names):
  """Raises a ValueError if a client has no samples of a kind.

  Args:
    kind: what is missing, in words.
    rows_of_clients: what each client has.
    scheme: by which the samples were divided.
    names: of the groups of each client; None if it has none.
  """
  for client, rows in enumerate(rows_of_clients):
    if len(rows):
      continue
    if names:
      raise ValueError(
        f"partition={scheme!r}: client {client} ({', '.join(names[client])}) "
        f"has no {kind} data; must be at least one sample. Leave its samples "
        "out, or give each client more groups by groups_per_client"
      )
    raise ValueError(
      f"partition={scheme!r}: client {client} has no {kind} data; must be at "
      "least one sample. Fewer clients, a larger min_size or a larger alpha "
      "help"
    )


def _check_classes(dataset, classes, rows_of_clients, scheme):
  """Warns of classes of which no client has samples."""
  held = np.unique(classes[np.concatenate(rows_of_clients)])
  lost = np.setdiff1d(classes, held).tolist()
  if lost:
    listed = ", ".join(map(str, lost[:_LISTED]))
    more = ", ..." if len(lost) > _LISTED else ""
    warnings.warn(
      f"partition={scheme!r}: no client has samples of {len(lost)} of the "
      f"classes of {dataset.name!r}: {listed}{more}",
      stacklevel=3,
    )
