"""Chances are drawn as what they are counted with."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax import chances

CHANCES = (
  chances.SMALLEST, 1e-9, 1e-7, 2.0**-23, 3 * 2.0**-24, 0.1, 1 / 3, 0.5,
  0.6, 1 - 2.0**-30, 1 - 2.0**-53,
)  # fmt: skip


def bits(number: int) -> tuple[jax.Array, jax.Array]:
  """The number's 55 bits, as they are drawn."""
  return jnp.int32(number >> 32), jnp.uint32(number % 2**32)


@pytest.mark.parametrize("value", CHANCES)
def test_so_many_numbers_fall_below_a_chance(value):
  """All that are smaller than it do, and no other."""
  chance = chances.make(value)
  below = round(Fraction(value) * 2**55)
  assert Fraction(chances.drawn(value)) == Fraction(below, 2**55)
  assert abs(chances.drawn(value) / value - 1) <= 2.0**-16
  edges = {below + d for d in (-(2**32), -1, 0, 1, 2**32)} | {0, 2**55 - 1}
  for number in sorted(edges):
    if 0 <= number < 2**55:
      happens = bool(chances.falls_below(*bits(number), chance))
      assert happens == (number < below), number - below


def test_what_is_certain_is_so():
  keys = jax.random.split(jax.random.key(0), 1000)
  for value in (0.0, 1.0):
    chance = chances.make(value)
    assert chances.drawn(value) == value
    happens = jax.vmap(lambda k, c=chance: chances.happens(k, c))(keys)
    assert np.all(np.asarray(happens) == bool(value))
  assert not chances.falls_below(*bits(0), chances.make(0.0))
  assert chances.falls_below(*bits(2**55 - 1), chances.make(1.0))


def test_further_bits_decide_where_the_first_do_not(monkeypatch):
  """A chance of 2^-24 happens in half of the draws whose first bits are 0."""
  uniform = jax.random.uniform
  monkeypatch.setattr(
    jax.random, "uniform", lambda *args: jnp.zeros_like(uniform(*args))
  )
  chance = chances.make(np.full(4000, 2.0**-24))
  happens = chances.happens(jax.random.key(0), chance)
  assert abs(np.mean(happens) - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_each_draw_has_the_chance_of_its_own():
  key = jax.random.key(3)
  values = np.linspace(0, 1, 1000)
  happens = chances.happens(key, chances.make(values))
  uniform = jax.random.uniform(key, (1000,))
  np.testing.assert_array_equal(happens, uniform < values)
  np.testing.assert_array_equal(
    chances.values(chances.make(values)), np.round(values * 2.0**55) / 2.0**55
  )


@pytest.mark.parametrize("value", [1e-13, -0.1, 1.5, float("nan")])
def test_a_chance_that_is_not_drawn_is_an_error(value):
  with pytest.raises(ValueError, match="^dropout=.*: must be 0, or from 9.1e"):
    chances.check_chance("dropout", value)
  chances.check_chance("dropout", chances.SMALLEST)
