"""Soft labels with few bits: probabilities as small integers.

With b bits every probability becomes an integer in `[0, 2^b - 1]`, the integers
of a sample sum to `2^b - 1`, and those of all samples form one stream of bits.
At 1 bit a soft label is the one-hot label of its largest entry.
"""

import jax
import jax.numpy as jnp

from quped_jax.methods.blocks.packing import from_bits, to_bits
from quped_jax.quantization import codebook as codebook_lib

FULL = codebook_lib.FULL_PRECISION


def check_bits(field: str, bits: int) -> None:
  """Raises a ValueError unless the bits are 1 to 8, or 32."""
  if bits != FULL and not 1 <= bits <= 8:
    raise ValueError(f"{field}={bits}: must be from 1 to 8, or {FULL}")


def apportion(probabilities: jax.Array, total: int) -> jax.Array:
  """Integers with a given sum, in proportion to probabilities.

  By largest remainder: all are rounded down, and those that lost most get 1
  each until the sum is reached; in a tie, the first.

  Args:
    probabilities: `[..., classes]`, not negative, with sum 1.
    total: the sum of the integers over the classes.

  Returns:
    int32 `[..., classes]`.
  """
  exact = probabilities * total
  floors = jnp.floor(exact)
  missing = total - jnp.sum(floors, axis=-1, keepdims=True)
  order = jnp.argsort(floors - exact, axis=-1, stable=True)
  rank = jnp.argsort(order, axis=-1)
  return (floors + (rank < missing)).astype(jnp.int32)


def encode(probabilities: jax.Array, bits: int) -> jax.Array:
  """Encodes soft labels `[samples, classes]` for a message.

  Args:
    probabilities: the soft labels, with sum 1 over the classes.
    bits: 1 to 8, or 32, which leaves them unchanged.
  """
  if bits == FULL:
    return probabilities
  return to_bits(apportion(probabilities, 2**bits - 1), bits)


def decode(encoded: jax.Array, bits: int, shape: tuple[int, ...]) -> jax.Array:
  """Decodes soft labels of the given shape from the output of `encode`."""
  if bits == FULL:
    return encoded
  integers = from_bits(encoded, bits, shape)
  return integers.astype(jnp.result_type(float)) / (2**bits - 1)


def nothing(bits: int, shape: tuple[int, ...]) -> jax.Array:
  """Encoded soft labels that are all zero: there are none yet."""
  if bits == FULL:
    return jnp.zeros(shape)
  return to_bits(jnp.zeros(shape, jnp.int32), bits)
