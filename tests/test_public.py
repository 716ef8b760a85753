"""The public set: where it is kept, and how methods reach it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.data import draw_public
from quped_jax.data.federation import make_public
from quped_jax.experiment.build_data import build_federation


def arrays(samples=60, classes=3, is_test=None, groups=None):
  labels = np.arange(samples) % classes
  inputs = np.arange(samples, dtype=np.float32)[:, None]
  return qj.from_arrays(inputs, labels, is_test=is_test, groups=groups, std=1.0)


def test_rows_are_of_every_class_in_proportion_and_of_the_seed():
  rows = draw_public(arrays(), 12)
  assert len(set(rows.tolist())) == 12
  assert np.bincount(rows % 3).tolist() == [4, 4, 4]
  np.testing.assert_array_equal(rows, draw_public(arrays(), 12))
  assert not np.array_equal(rows, draw_public(arrays(), 12, seed=1))


def test_rows_are_training_samples_alone():
  is_test = np.arange(60) >= 30
  assert draw_public(arrays(is_test=is_test), 20).max() < 30


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_a_size_that_cannot_be_is_named(size):
  with pytest.raises(ValueError, match=f"public_size={size}: must be from 1"):
    draw_public(arrays(), size)


@pytest.mark.parametrize("scheme", ["iid", "natural"])
@pytest.mark.parametrize("own_test", [True, False])
def test_no_client_holds_a_public_sample(scheme, own_test):
  is_test = np.arange(60) % 5 == 4 if own_test else None
  groups = np.arange(60) // 10
  dataset = arrays(is_test=is_test, groups=groups)
  public = draw_public(dataset, 9)
  parts = qj.partition(dataset, scheme, 3, groups_per_client=2, exclude=public)
  held = np.concatenate([*parts.train, *parts.test])
  assert not set(held.tolist()) & set(public.tolist())
  assert len(held) == 60 - 9


def test_samples_can_have_other_labels_and_be_chosen_from():
  public = make_public(arrays(), np.array([3, 7, 20]), labelled=True)
  assert public.size == 3
  batch = public.data().batch(jnp.arange(3))
  np.testing.assert_array_equal(batch.labels, [0, 1, 2])
  soft = jnp.eye(4)[:3]
  data = public.data(labels=soft, rows=jnp.array([2, 0]))
  assert data.train.count == 2
  batch = data.batch(jnp.arange(2))
  np.testing.assert_array_equal(batch.inputs[:, 0], [20.0, 3.0])
  np.testing.assert_array_equal(batch.labels, soft[jnp.array([2, 0])])


def test_without_labels_there_are_none():
  public = make_public(arrays(), np.array([3, 7, 20]), labelled=False)
  assert public.data().batch(jnp.arange(3)).labels.tolist() == [-1, -1, -1]


def test_batches_are_drawn_as_a_client_draws():
  public = make_public(arrays(), np.arange(10), labelled=True)
  positions = public.data().draw(jax.random.key(0), 2, 5)
  assert sorted(np.ravel(positions).tolist()) == list(range(10))


def settings(**changes):
  return qj.Settings(
    **{"dataset": "digits", "clients": 5, "public_size": 100, **changes}
  )


def test_settings_hold_it_out_of_their_own_dataset():
  federation = build_federation(settings())
  assert federation.public is not None and federation.public.size == 100
  without = build_federation(settings(public_size=0))
  counts = [
    int(sum(np.sum(getattr(f, split).count) for split in ("train", "test")))
    for f in (federation, without)
  ]
  assert without.public is None and counts == [1797 - 100, 1797]


def test_settings_can_name_another_dataset():
  qj.data.register_dataset("shifted", lambda folder: other)
  other = qj.load_dataset("digits")
  federation = build_federation(settings(public_dataset="shifted"))
  # Nothing is held out from the clients' own dataset.
  assert (
    sum(np.asarray(federation.train.count))
    + sum(np.asarray(federation.test.count))
    == 1797
  )
  other = arrays()
  with pytest.raises(ValueError, match="must have samples of shape"):
    build_federation(settings(public_dataset="shifted"))
  many = qj.load_dataset("digits")
  other = dataclasses.replace(many, num_classes=11)
  with pytest.raises(ValueError, match="public_labelled=True: must be False"):
    build_federation(settings(public_dataset="shifted"))
  build_federation(settings(public_dataset="shifted", public_labelled=False))


def test_its_own_dataset_by_name_is_held_out_too():
  federation = build_federation(settings(public_dataset="digits"))
  counts = [np.asarray(getattr(federation, s).count) for s in ("train", "test")]
  assert np.sum(counts) == 1797 - 100


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="public_dataset='none'"):
    build_federation(settings(public_dataset="none"))
  with pytest.raises(ValueError, match="public_size=0: must be positive with"):
    settings(public_size=0, public_dataset="digits")
  with pytest.raises(ValueError, match="public_size=-1: must be at least 0"):
    settings(public_size=-1)
  with pytest.raises(ValueError, match="public_size=5: must be 0 with"):
    build_federation(settings(dataset="synthetic", public_size=5))
