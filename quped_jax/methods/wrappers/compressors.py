r"""Ways to send an array of n numbers in fewer bytes.

With b bits, and xi(x) either neighbour of x among the integers, chosen at
random so that its mean is x:

.. math::
  \text{qsgd:} \; s \, \mathrm{sign}(v) \, \xi(L |v| / s) / L, \quad
    L = 2^{b-1} - 1, \; s = \max |v| \text{ or } |v|_2; \qquad
  \text{uniform:} \; l + (h - l) \, \xi(L (v - l) / (h - l)) / L, \quad
    L = 2^b - 1, \; l = \min v, \; h = \max v; \\
  \text{topk:} \; v \text{ where } |v| \text{ is largest, at }
    k = \lceil \text{share} \cdot n \rceil \text{ places, else } 0; \qquad
  \text{sign:} \; \pm |v|_1 / n, \text{ with } + \text{ for } 0.

Bytes, all of them sent as they are, without a code for runs or for frequent
integers:

  qsgd     4 + ceil(n b / 8)
  uniform  8 + ceil(n b / 8)
  topk     4 k, and for the places the lesser of ceil(k ceil(log2 n) / 8) and
           ceil(n / 8), by a list or by a bit for each place
  sign     4 + ceil(n / 8)

qsgd and uniform are right on average; topk and sign are not, and need error
feedback. Of numbers that are not finite none of them makes finite ones, except
that topk leaves out what is not among the largest.

References:
  Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD: Communication-Efficient SGD via
  Gradient Quantization and Encoding, 2017.
  Reisizadeh, Mokhtari, Hassani, Jadbabaie, Pedarsani, FedPAQ: A
  Communication-Efficient Federated Learning Method with Periodic Averaging and
  Quantization, 2020.
  Suresh, Yu, Kumar, McMahan, Distributed Mean Estimation with Limited
  Communication, 2017.
  Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018.
  Karimireddy, Rebjock, Stich, Jaggi, Error Feedback Fixes SignSGD and Other
  Gradient Compression Schemes, 2019.
"""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from quped_jax.methods.blocks import packing

NORMS = ("max", "l2")


class Encode(Protocol):
  """What is sent of an array."""

  def __call__(self, key: jax.Array, values: jax.Array, /) -> Any:
    """Returns a tree of arrays, of float32 `[n]`; the key is for rounding."""
    ...


class Decode(Protocol):
  """The array that is read."""

  def __call__(self, sent: Any, size: int, /) -> jax.Array:
    """Returns float32 `[n]`, of what `Encode` made; n is static."""
    ...


class Compressor(NamedTuple):
  """A way to send an array.

  Attributes:
    encode: `(key, values [n]) -> sent`.
    decode: `(sent, n) -> values [n]`.
  """

  encode: Encode
  decode: Decode


class Levels(NamedTuple):
  """Numbers as integers between two numbers.

  Attributes:
    ends: float32 `[1]`, the largest size; or `[2]`, the least and the largest.
    codes: uint8, the integers.
  """

  ends: jax.Array
  codes: jax.Array


class Largest(NamedTuple):
  """The numbers of largest size.

  Attributes:
    values: float32 `[k]`, in the order of their places.
    places: uint8, a list of them, or a bit for each place.
  """

  values: jax.Array
  places: jax.Array


class Signs(NamedTuple):
  """Signs, and one size.

  Attributes:
    size: float32 `[]`.
    signs: uint8, a bit for each number, 1 for those from zero on.
  """

  size: jax.Array
  signs: jax.Array


def _rounded(key: jax.Array, x: jax.Array, most: int) -> jax.Array:
  """An integer beside each number, at random, right on average: xi(x)."""
  # By rounding, a number may be slightly larger than it can be.
  x = jnp.clip(x, 0, most)
  low = jnp.floor(x)
  return low + (jax.random.uniform(key, x.shape) < x - low)


def _share(x: jax.Array, whole: jax.Array) -> jax.Array:
  """x as a share of a number; 0 where that is 0."""
  return jnp.where(whole != 0, x / jnp.where(whole != 0, whole, 1.0), 0.0)


def qsgd(bits: int, norm: str = "max") -> Compressor:
  """Integers of b bits with a sign, of equal distance; zeros stay zeros.

  Args:
    bits: b, 2 to 8.
    norm: what s is, "max" for the largest size or "l2" for the length.
  """
  most = 2 ** (bits - 1) - 1

  def encode(key, values):
    sizes = jnp.abs(values)
    scale = jnp.max(sizes)
    if norm == "l2":
      # Squares of tiny or huge numbers are none.
      scale *= jnp.linalg.norm(_share(sizes, scale))
    integers = _rounded(key, most * _share(sizes, scale), most)
    codes = most + jnp.sign(values) * integers
    return Levels(scale[None], packing.to_bits(codes, bits))

  def decode(sent, size):
    codes = packing.from_bits(sent.codes, bits, (size,))
    return sent.ends * ((codes - most) / most)

  return Compressor(encode, decode)


def uniform(bits: int) -> Compressor:
  """Integers of b bits from the least number to the largest.

  Args:
    bits: b, 1 to 8.
  """
  most = 2**bits - 1

  def encode(key, values):
    low, high = jnp.min(values), jnp.max(values)
    codes = _rounded(key, most * _share(values - low, high - low), most)
    return Levels(jnp.stack([low, high]), packing.to_bits(codes, bits))

  def decode(sent, size):
    low, high = sent.ends
    codes = packing.from_bits(sent.codes, bits, (size,))
    return low + (high - low) * (codes / most)

  return Compressor(encode, decode)


def top_k(share: float) -> Compressor:
  """The numbers of largest size; of equal ones, those that come first.

  Args:
    share: of the numbers that are sent, above 0, at most 1.
  """

  def forms(size):
    """How many are sent, the bits of a place, and whether to list places."""
    # The small term makes 0.07 times 100 come to 7.
    count = min(max(math.ceil(share * size - 1e-9), 1), size)
    bits = (size - 1).bit_length()
    listed = packing.bytes_of(count, bits) < packing.bytes_of(size, 1)
    return count, bits, listed

  def encode(key, values):
    del key
    count, bits, listed = forms(values.size)
    _, places = jax.lax.top_k(jnp.abs(values), count)
    places = jnp.sort(places)
    if listed:
      return Largest(values[places], packing.to_bits(places, bits))
    chosen = jnp.zeros(values.shape, jnp.uint8).at[places].set(1)
    return Largest(values[places], packing.to_bits(chosen, 1))

  def decode(sent, size):
    count, bits, listed = forms(size)
    if listed:
      places = packing.from_bits(sent.places, bits, (count,))
    else:
      chosen = packing.from_bits(sent.places, 1, (size,))
      (places,) = jnp.nonzero(chosen, size=count)
    return jnp.zeros(size, jnp.float32).at[places].set(sent.values)

  return Compressor(encode, decode)


def signs() -> Compressor:
  """The signs, and the mean size."""

  def encode(key, values):
    del key
    return Signs(jnp.mean(jnp.abs(values)), packing.to_bits(values >= 0, 1))

  def decode(sent, size):
    positive = packing.from_bits(sent.signs, 1, (size,)) > 0
    return jnp.where(positive, sent.size, -sent.size)

  return Compressor(encode, decode)
