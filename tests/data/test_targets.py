"""Targets that are no classes, from arrays to batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import targets
from quped_jax.data.federation import make_public

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(60, 3)).astype(np.float32)
VALUES = RNG.normal(size=(60, 2))
SEVERAL = RNG.integers(0, 2, (60, 4))


def make(labels, kind, **options):
  return qj.from_arrays(INPUTS[: len(labels)], labels, targets=kind, **options)


def test_values_are_float32_by_sample_and_column():
  made = make(VALUES, "values")
  assert made.labels.dtype == np.float32 and made.targets == "values"
  np.testing.assert_array_equal(made.labels, VALUES.astype(np.float32))
  assert made.num_classes == 2 and made.class_names is None
  for one in (VALUES[:, 0], VALUES[:, :1], jnp.asarray(VALUES[:, 0])):
    assert make(one, "values").labels.shape == (60, 1)
  # Whole numbers too, if they are said to be values.
  assert make(np.arange(5), "values").labels.dtype == np.float32


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_several_labels_are_bools(dtype):
  made = make(SEVERAL.astype(dtype), "multi_label")
  assert made.labels.dtype == bool and made.targets == "multi_label"
  np.testing.assert_array_equal(made.labels, SEVERAL == 1)
  assert made.num_classes == 4


def test_classes_are_what_labels_are_if_nothing_is_said():
  labels = RNG.integers(0, 3, 60)
  made = qj.from_arrays(INPUTS, labels)
  assert made.targets == "classes" and made.labels.dtype == np.int32


@pytest.mark.parametrize(
  ("labels", "kind", "options", "message"),
  [
    (VALUES, "numbers", {}, "targets='numbers': must be one of classes, val"),
    ([0.0, np.nan], "values", {}, "labels=nan: must be finite"),
    ([0.0, 1e39], "values", {}, "labels=1e.39: must be finite, and at most"),
    (np.zeros((3, 2, 2)), "values", {}, r"labels.shape=\(3, 2, 2\): must be"),
    (np.zeros((3, 0)), "values", {}, r"labels.shape=\(3, 0\): must be"),
    (["a", "b"], "values", {}, "labels"),
    (VALUES, "values", {"num_classes": 3}, "num_classes=3: must be 2, the col"),
    ([0, 1], "multi_label", {}, r"labels.shape=\(2,\): must be .samples, lab"),
    ([[0, 2]], "multi_label", {}, "labels=2: must be 0 or 1 with targets="),
    (VALUES[:, :1], "classes", {}, "labels=.*: .* targets='values' is for reg"),
  ],
)
def test_other_targets_are_an_error_that_names_them(
  labels, kind, options, message
):
  with pytest.raises(ValueError, match=f"^{message}"):
    make(labels, kind, **options)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("labels", np.zeros((60, 2)), "labels.dtype=float64: must be int32, of cl"),
    ("labels", np.full((60, 2), np.nan, np.float32), "labels=nan: must be fin"),
    ("labels", np.zeros((60, 3), np.float32), r"labels.shape=\(60, 3\): must"),
    ("labels", np.zeros(60, bool), r"labels.shape=\(60,\): must be \(60, 2\)"),
    ("num_classes", 0, "num_classes=0: must be at least 1"),
  ],
)
def test_a_dataset_checks_its_targets(field, value, message):
  made = make(VALUES, "values")
  with pytest.raises(ValueError, match=f"^{message}"):
    dataclasses.replace(made, **{field: value})


def test_values_that_are_far_from_1_in_size_are_warned_of():
  with pytest.warns(UserWarning, match="labels: are of size 200 .* Subtract"):
    make([200.0, -200.0], "values")


@pytest.mark.parametrize("kind", ["values", "multi_label"])
@pytest.mark.parametrize("is_test", [None, np.arange(60) % 3 == 0])
def test_clients_share_the_samples_without_classes(kind, is_test):
  labels = VALUES if kind == "values" else SEVERAL
  data = make(labels, kind, is_test=is_test)
  parts = qj.partition(data, "iid", 4, validation_fraction=0.2)
  everyone = np.concatenate([*parts.train, *parts.validation, *parts.test])
  assert sorted(everyone) == list(range(60))
  if is_test is not None:
    assert is_test[np.concatenate(parts.test)].all()
    assert [len(rows) for rows in parts.test] == [5] * 4
  federation = qj.make_federation(data, parts)
  batch = federation.client(2).batch(jnp.arange(3))
  np.testing.assert_array_equal(batch.labels, data.labels[parts.train[2][:3]])
  assert batch.labels.dtype == data.labels.dtype


@pytest.mark.parametrize("kind", ["values", "multi_label"])
def test_schemes_by_class_say_that_there_are_none(kind):
  data = make(VALUES if kind == "values" else SEVERAL, kind)
  for scheme in ("pathological", "dirichlet", "shards"):
    with pytest.raises(
      ValueError, match=f"^partition='{scheme}': must be one of iid, quantity"
    ):
      qj.partition(data, scheme, 4)


def test_groups_own_their_values():
  data = make(VALUES, "values", groups=np.arange(60) % 6)
  parts = qj.partition(data, "natural", 3, groups_per_client=2)
  for train, test in zip(parts.train, parts.test, strict=True):
    assert len({row % 6 for row in (*train, *test)}) == 2


@pytest.mark.parametrize("kind", ["values", "multi_label"])
def test_a_public_set_keeps_targets_or_hides_them(kind):
  data = make(VALUES if kind == "values" else SEVERAL, kind)
  rows = qj.data.draw_public(data, 10)
  known = make_public(data, rows, labelled=True).data().source.labels
  np.testing.assert_array_equal(known, data.labels[rows])
  hidden = make_public(data, rows, labelled=False).data().source.labels
  assert hidden.shape == known.shape and hidden.dtype == known.dtype
  assert not np.any(np.asarray(hidden) == 1)
  assert np.isnan(np.asarray(hidden)).all() == (kind == "values")


def test_the_kind_is_known_of_shapes_too():
  for dtype, kind in zip(
    (jnp.int32, jnp.float32, jnp.bool_), targets.KINDS, strict=True
  ):
    assert targets.kind_of(jax.ShapeDtypeStruct((2, 1), dtype)) == kind
