"""Small integers as one stream of bits, in bytes."""

import math

import jax
import jax.numpy as jnp


def bytes_of(count: int, bits: int) -> int:
  """How many bytes integers of b bits take."""
  return -(-count * bits // 8)


def to_bits(integers: jax.Array, bits: int) -> jax.Array:
  """Packs integers of b bits, one after the other, into bytes.

  Args:
    integers: of any shape, in `[0, 2^b - 1]`.
    bits: b, 1 to 31.

  Returns:
    uint8 `[ceil(count * b / 8)]`.
  """
  places = jnp.arange(bits, dtype=jnp.int32)
  stream = (integers.astype(jnp.int32).reshape(-1, 1) >> places[None]) & 1
  return jnp.packbits(stream.reshape(-1).astype(jnp.uint8))


def from_bits(
  stream: jax.Array, bits: int, shape: tuple[int, ...]
) -> jax.Array:
  """The integers that `to_bits` wrote, int32 of the given shape."""
  count = math.prod(shape) * bits
  each = jnp.unpackbits(stream, count=count).astype(jnp.int32)
  places = jnp.arange(bits, dtype=jnp.int32)
  places = jnp.broadcast_to(places, (*shape, bits))
  return jnp.sum(each.reshape(*shape, bits) << places, axis=-1)
