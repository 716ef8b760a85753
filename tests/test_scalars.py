"""Scalars as users write them: Python's own, or a TypeError."""

import decimal
import fractions
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import scalars


class Scalar:
  """What a tensor of PyTorch without axes looks like from outside."""

  ndim = 0
  dtype = "torch.float32"

  def __init__(self, value):
    self.item = lambda: value


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    (3, 3),
    (np.uint8(3), 3),
    (np.array(3), 3),
    (jnp.int32(3), 3),
    (Scalar(3), 3),
    (2**100, 2**100),
  ],
)
def test_whole_numbers_of_any_library_become_ints(value, expected):
  made = scalars.whole(value)
  assert type(made) is int and made == expected


@pytest.mark.parametrize(
  "value",
  [
    *(True, np.True_, 3.0, np.float64(3), "3", None, 1j, (3,), [3]),
    *(np.array([3]), np.ma.masked, np.datetime64("2020"), b"3"),
  ],
)
def test_nothing_else_is_a_whole_number(value):
  with pytest.raises(TypeError):
    scalars.whole(value)


@pytest.mark.parametrize(
  "value",
  [
    *(0.1, np.float64(0.1), np.float32(0.1), jnp.float32(0.1)),
    *(Scalar(float(np.float32(0.1))), fractions.Fraction(1, 10)),
  ],
)
def test_a_number_is_the_one_that_was_written(value):
  assert float(scalars.real(value)) == 0.1


def test_numbers_of_less_precision_than_float32_keep_their_value():
  assert scalars.real(np.float16(0.1)) == float(np.float16(0.1))
  assert scalars.real(jnp.bfloat16(0.1)) == 0.10009765625


@pytest.mark.parametrize(
  "value",
  [True, np.True_, "0.1", None, 1j, [0.1], np.ma.masked, decimal.Decimal(1)],
)
def test_nothing_else_is_a_number(value):
  with pytest.raises(TypeError):
    scalars.real(value)


def test_truth_is_true_or_false():
  assert scalars.truth(np.True_) is True and scalars.truth(False) is False
  for value in (1, 0, "True", None, np.array([True])):
    with pytest.raises(TypeError):
      scalars.truth(value)


def test_text_is_text_or_a_path():
  for value in ("a", np.str_("a"), pathlib.Path("a")):
    assert type(scalars.text(value)) is str and scalars.text(value) == "a"
  for value in (b"a", "a\0b", 3, None, pathlib.Path("a\0b")):
    with pytest.raises(TypeError):
      scalars.text(value)


def test_one_alone_means_a_sequence_of_one():
  wholes = scalars.several(scalars.whole)
  for value in ((1, 2), [1, 2], range(1, 3), np.array([1, 2])):
    assert wholes(value) == (1, 2)
  assert wholes(1) == wholes(np.array(1)) == (1,)
  assert wholes(()) == wholes(np.zeros(0, int)) == ()
  for value in ("12", b"12", {1, 2}, {1: 2}, [[1]], np.ones((1, 1), int), True):
    with pytest.raises(TypeError):
      wholes(value)


def test_arrays_and_lists_are_plain_as_tuples():
  given = ["a", np.float32(0.1), [np.int8(2), None], np.eye(2, dtype=int)]
  assert repr(scalars.plain(given)) == "('a', 0.1, (2, None), ((1, 0), (0, 1)))"
