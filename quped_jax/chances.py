"""Chances, and draws that are true to them.

A chance is drawn as a multiple of 2^-55. `jax.random.uniform` has 23 random
bits, by which a chance of 1e-9 would come to 1.2e-7; so where they are those
with which the chance itself begins, 32 further bits decide. Whoever counts with
a chance, as the accountant of privacy does, takes the one that is `drawn`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import random_keys

_FIRST_BITS = 23
_FURTHER_BITS = 32
_STEPS = 2.0 ** (_FIRST_BITS + _FURTHER_BITS)

# It is drawn to within 2^-16 of itself, larger ones more exactly.
SMALLEST = 2.0**-40


class Chance(NamedTuple):
  """Chances by their bits, arrays of one shape.

  Attributes:
    first: int32, the first 23 bits after the point; 2^23 for certainty.
    further: uint32, the next 32 bits.
  """

  first: Any
  further: Any


def check_chance(field: str, value: float) -> None:
  """Raises a ValueError unless the value is 0 or can be drawn as a chance."""
  if not (value == 0 or SMALLEST <= value <= 1):
    raise ValueError(
      f"{field}={value}: must be 0, or from {SMALLEST:.2g}, the smallest "
      "chance that is drawn, to 1"
    )


def make(values: Any) -> Chance:
  """Chances in [0, 1] as they are drawn, of the shape of the values."""
  # Multiplying by a power of two is exact, and so is what is rounded.
  steps = np.rint(np.asarray(values, np.float64) * _STEPS).astype(np.uint64)
  first = (steps >> np.uint64(_FURTHER_BITS)).astype(np.int32)
  further = (steps & np.uint64(2**_FURTHER_BITS - 1)).astype(np.uint32)
  return Chance(jnp.asarray(first), jnp.asarray(further))


def values(chance: Chance) -> np.ndarray:
  """The chances as float64, exactly."""
  first = np.asarray(chance.first, np.float64) * 2.0**_FURTHER_BITS
  return (first + np.asarray(chance.further, np.float64)) / _STEPS


def drawn(value: float) -> float:
  """The chance with which something of a given chance really happens."""
  return float(values(make(value)))


def falls_below(first: Any, further: Any, chance: Chance) -> jax.Array:
  """Whether a random number, given by its bits as a Chance is, is smaller."""
  tie = (first == chance.first) & (further < chance.further)
  return (first < chance.first) | tie


def happens(key: jax.Array, chance: Chance) -> jax.Array:
  """Draws whether something happens, bool of the chances' shape.

  Args:
    key: a key for this draw alone.
    chance: the chances, each of which is drawn by itself.
  """
  shape = jnp.shape(chance.first)
  first = jax.random.uniform(key, shape) * 2**_FIRST_BITS
  further_key = jax.random.fold_in(key, random_keys.FURTHER_BITS)
  further = jax.random.bits(further_key, shape, jnp.uint32)
  return falls_below(first.astype(jnp.int32), further, chance)
