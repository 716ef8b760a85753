"""Integers as bits in bytes."""

import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.methods.blocks import packing


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 13, 31])
def test_what_is_packed_comes_back(bits):
  rng = np.random.default_rng(bits)
  integers = rng.integers(0, 2**bits, (13, 5))
  integers[0] = 2**bits - 1
  packed = packing.to_bits(jnp.asarray(integers), bits)
  assert packed.dtype == jnp.uint8
  assert packed.shape == (packing.bytes_of(13 * 5, bits),)
  assert packed.shape == (-(-13 * 5 * bits // 8),)
  np.testing.assert_array_equal(
    packing.from_bits(packed, bits, (13, 5)), integers
  )
