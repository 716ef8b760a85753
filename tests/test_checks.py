"""Checks of user input: what they accept, and what their errors say."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import checks


@pytest.mark.parametrize(
  ("check", "value"),
  [
    (checks.unit_interval, 0),
    (checks.unit_interval, 1.0),
    (checks.positive, checks.SMALLEST),
    (checks.positive, checks.LARGEST),
    (checks.not_negative, 0.0),
    (checks.not_negative, checks.LARGEST),
  ],
)
def test_ends_of_intervals_are_inside(check, value):
  check("field", value)


@pytest.mark.parametrize(
  ("check", "value", "message"),
  [
    (checks.unit_interval, -1e-9, "field=-1e-09: must be from 0 to 1"),
    (checks.unit_interval, 1.01, "field=1.01: must be from 0 to 1"),
    (checks.unit_interval, np.nan, "field=nan: must be from 0 to 1"),
    (checks.positive, 0, "field=0: must be positive"),
    (checks.positive, np.inf, "field=inf: must be finite"),
    (checks.positive, np.nan, "field=nan: must be positive"),
    (checks.positive, 1e-40, "field=1e-40: must be at least 1.2e-38"),
    (checks.not_negative, -1, "field=-1: must be at least 0"),
    (checks.not_negative, np.inf, "field=inf: must be finite"),
    (checks.not_negative, np.nan, "field=nan: must be at least 0"),
  ],
)
def test_what_is_outside_is_named_with_what_is_allowed(check, value, message):
  with pytest.raises(ValueError) as caught:
    check("field", value)
  assert str(caught.value).startswith(message)


def test_choices_are_named_in_order():
  checks.choice("norm", "l2", ("l1", "l2"))
  with pytest.raises(ValueError, match="^norm='l3': must be one of l1, l2$"):
    checks.choice("norm", "l3", ("l1", "l2"))


def test_counts_have_a_smallest():
  checks.at_least("rounds", 1, 1)
  with pytest.raises(ValueError, match="^rounds=0: must be at least 1$"):
    checks.at_least("rounds", 0, 1)


def test_scalars_of_numpy_are_pythons_own():
  assert checks.whole("n", np.int64(3), 3) == 3
  assert checks.number("x", np.float32(0.1)) == 0.1
  assert checks.text("name", pathlib.Path("a")) == "a"


LISTED: Any = ["l1"]


@pytest.mark.parametrize(
  ("check", "message"),
  [
    (lambda: checks.whole("n", 2.0), "n=2.0: must be a whole number"),
    (lambda: checks.whole("n", 2, 3), "n=2: must be at least 3"),
    (lambda: checks.number("x", "1"), "x='1': must be a number"),
    (lambda: checks.number("x", 10**400), "x=1.*: must be a number"),
    (lambda: checks.whole("n", [10**5000]), "n=a number of thousands of"),
    (lambda: checks.text("name", b"a"), "name=b'a': must be text"),
    (lambda: checks.choice("norm", LISTED, {"l1": 1}), r"norm=\['l1'\]: must"),
    (
      lambda: checks.instance("x", 3, str, "repr"),
      "x: must be a str, as repr makes; got int",
    ),
  ],
)
def test_what_is_none_of_them_is_named(check, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    check()


def test_the_limits_are_those_of_float32():
  limits = np.array([checks.SMALLEST, checks.LARGEST])
  as_stored = np.asarray(jnp.asarray(limits, jnp.float32))
  np.testing.assert_array_equal(as_stored.astype(float), limits)
