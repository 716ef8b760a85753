"""Clients whose inputs differ."""

import numpy as np
import pytest

from quped_jax.data import draw_public, from_arrays, partition, skew_features

CLIENTS = 8


def images(size=400, side=4, **options):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(size, side, side, 1)).astype(np.float32)
  return from_arrays(inputs, np.arange(size) % 2, **options)


def rows_of(parts):
  return [
    np.concatenate(own)
    for own in zip(parts.train, parts.validation, parts.test, strict=True)
  ]


def test_noise_grows_in_equal_steps_from_client_to_client():
  dataset = images(std=2.0)
  parts = partition(dataset, "iid", CLIENTS, validation_fraction=0.2)
  noisy = skew_features(dataset, parts, "noise", noise=0.8, seed=1)
  added = noisy.inputs - dataset.inputs
  levels = [added[rows].std() / dataset.std for rows in rows_of(parts)]
  expected = 0.8 * np.arange(1, CLIENTS + 1) / CLIENTS
  np.testing.assert_allclose(np.sort(levels), expected, rtol=0.1)
  assert not np.array_equal(np.argsort(levels), np.arange(CLIENTS))
  # Noise of one client's samples is not that of another's.
  flat = np.stack([added[rows].ravel()[:200] for rows in rows_of(parts)])
  others = np.corrcoef(flat)[~np.eye(CLIENTS, dtype=bool)]
  assert np.abs(others).max() < 0.35


def test_a_quarter_of_the_clients_have_each_rotation():
  dataset = images()
  parts = partition(dataset, "iid", CLIENTS)
  turned = skew_features(dataset, parts, "rotation")
  found = []
  for rows in rows_of(parts):
    quarters = [
      k
      for k in range(4)
      if np.array_equal(
        turned.inputs[rows], np.rot90(dataset.inputs[rows], k, axes=(1, 2))
      )
    ]
    found += quarters
  assert sorted(found) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("skew", ["noise", "rotation"])
def test_the_seed_decides_and_nothing_else_changes(skew):
  dataset = images()
  public = draw_public(dataset, 20)
  parts = partition(dataset, "iid", CLIENTS, exclude=public)
  before = dataset.inputs.copy()
  first, again, other = (
    skew_features(dataset, parts, skew, seed=seed) for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(first.inputs, again.inputs)
  assert not np.array_equal(first.inputs, other.inputs)
  np.testing.assert_array_equal(dataset.inputs, before)
  np.testing.assert_array_equal(first.inputs[public], before[public])
  assert first.labels is dataset.labels
  assert skew_features(dataset, parts, "none") is dataset


def test_bytes_are_turned_as_bytes_and_noisy_as_floats():
  inputs = np.random.default_rng(0).integers(0, 256, (40, 3, 3)).astype("uint8")
  dataset = from_arrays(inputs, np.arange(40) % 2, std=255.0)
  parts = partition(dataset, "iid", 4)
  assert skew_features(dataset, parts, "rotation").inputs.dtype == np.uint8
  noisy = skew_features(dataset, parts, "noise", noise=0.1)
  assert noisy.inputs.dtype == np.float32
  assert 5 < np.std(noisy.inputs - inputs) < 40


@pytest.mark.parametrize(
  ("skew", "options", "message"),
  [
    ("blur", {}, "feature_skew='blur': must be one of none, noise, rotation"),
    ("noise", {"noise": 0.0}, "feature_noise=0.0: must be positive"),
    ("noise", {"noise": 3e38}, "feature_noise=3e.38: must be less"),
    ("rotation", {}, r"feature_skew='rotation': .* \[5\], are no square"),
  ],
)
def test_what_cannot_be_is_named(skew, options, message):
  dataset = from_arrays(np.eye(20)[:, :5] + 1, np.arange(20) % 2)
  parts = partition(dataset, "iid", 4)
  with pytest.raises(ValueError, match=f"^{message}"):
    skew_features(dataset, parts, skew, **options)
