"""Images in either order."""

import warnings

import numpy as np
import pytest

import quped_jax as qj

LAST = np.random.default_rng(0).normal(size=(6, 9, 8, 3)).astype(np.float32)
FIRST = np.moveaxis(LAST, -1, 1)
LABELS = np.arange(6) % 2


def test_channels_first_are_found_moved_and_said():
  with pytest.warns(
    UserWarning,
    match=r"^inputs: .* \[6, 3, 9, 8\], and become \[6, 9, 8, 3\]",
  ):
    made = qj.from_arrays(FIRST, LABELS)
  np.testing.assert_array_equal(made.inputs, LAST)


def test_who_says_the_order_is_told_nothing():
  made = qj.from_arrays(FIRST, LABELS, channels="first")
  np.testing.assert_array_equal(made.inputs, LAST)
  kept = qj.from_arrays(FIRST, LABELS, channels="last")
  np.testing.assert_array_equal(kept.inputs, FIRST)


@pytest.mark.parametrize(
  "shape", [(6, 9, 8, 3), (6, 3, 3, 3), (6, 3, 9), (6, 2, 9, 9), (6, 3, 9, 4)]
)
def test_what_may_be_meant_otherwise_stays(shape):
  inputs = np.ones(shape) * np.arange(6).reshape(-1, *[1] * (len(shape) - 1))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert qj.from_arrays(inputs, LABELS).inputs.shape == shape


def test_a_scale_of_each_pixel_is_moved_too_and_one_of_channels_is_not():
  made = qj.from_arrays(
    FIRST,
    LABELS,
    channels="first",
    mean=FIRST[0],
    std=np.array([1.0, 2.0, 3.0]),
  )
  np.testing.assert_array_equal(made.mean, LAST[0])
  np.testing.assert_array_equal(made.std, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
  ("inputs", "order", "message"),
  [
    (LAST, "middle", "channels='middle': must be one of last, first"),
    (LAST[:, :, 0, 0], "first", r"channels='first': .*shape=\(6, 9\)"),
  ],
)
def test_an_order_that_cannot_be_is_named(inputs, order, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    qj.from_arrays(inputs, LABELS, channels=order)
