"""What is odd about samples is said, once."""

import warnings

import numpy as np
import pytest

from quped_jax.data import from_arrays

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(12, 4))
LABELS = np.arange(12) % 2


def said(*args, **options):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from_arrays(*args, **options)
  return [str(x.message) for x in caught]


@pytest.mark.parametrize("kind", [np.uint8, np.float32, int])
def test_bytes_are_called_so_and_are_not_scaled(kind):
  inputs = RNG.integers(0, 256, (12, 4)).astype(kind)
  (line,) = said(inputs, LABELS)
  assert "as unscaled bytes are, and are used as they are" in line
  assert "standardize=True" in line
  assert not said(inputs, LABELS, std=1.0)
  (line,) = said(inputs * 300.5, LABELS)
  assert "bytes" not in line


def test_constant_features_are_named():
  inputs = INPUTS.copy()
  inputs[:, [1, 3]] = 7
  (line,) = said(inputs, LABELS)
  assert line == (
    "inputs: 2 of 4 features are the same in all samples, and tell nothing: "
    "1, 3"
  )
  (line,) = said(inputs, LABELS, feature_names=["age", "sex", "size", "year"])
  assert line.endswith(": sex, year")
  # Corners of images are no features.
  assert not said(inputs.reshape(12, 2, 2), LABELS)


def test_many_are_not_all_listed():
  inputs = np.ones((12, 40))
  inputs[:, 0] = RNG.normal(size=12)
  (line,) = said(inputs, LABELS)
  assert line.endswith(": 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...")


def test_clients_with_one_sample_are_named():
  client = ["a"] * 6 + ["b"] * 4 + ["c", "d"]
  (line,) = said(INPUTS, LABELS, client=client)
  assert line.startswith("client: 2 of 4 have one sample alone")
  assert line.endswith(": c, d")
  # Groups may be put together.
  assert not said(INPUTS, LABELS, groups=client)
  (line,) = said(INPUTS, LABELS, client=[3] * 11 + [9])
  assert line.endswith(": 9")


def test_clients_that_have_nothing_to_train_on_are_named():
  client, tests = ["a"] * 6 + ["b"] * 4 + ["c", "d"], [False, True] * 6
  (line,) = said(INPUTS, LABELS, client=client, is_test=tests)
  assert line.startswith("client: 1 of 4 have no samples to train on")
  assert line.endswith(": d")
  assert not said(INPUTS, LABELS, groups=client, is_test=tests)


def test_what_is_ordinary_is_not_spoken_of():
  assert not said(INPUTS, LABELS, client=LABELS)
