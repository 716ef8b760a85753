"""Quantized tensors as bit planes and levels, and back."""

import math
from typing import Any, NamedTuple

import numpy as np

from quped_jax.quantization.codebook import Codebook


class Packed(NamedTuple):
  """A quantized tensor.

  Attributes:
    planes: uint8 `[bits, ceil(n / 8)]` of n weights: plane b has bit b of every
      weight's index, in C order, the first of eight in the highest bit.
    levels: what the indices refer to, `[2**bits]` or `[channels, 2**bits]`.
  """

  planes: np.ndarray
  levels: np.ndarray


def pack(x: np.ndarray, bits: int, channelwise: bool) -> Packed:
  """Planes and levels of a tensor; a ValueError if it has too many levels."""
  # Compared by their bits: minus zero is not zero, and NaN equals itself.
  patterns = x.view(f"u{x.dtype.itemsize}")
  channels = x.shape[-1] if channelwise else 1
  rows = patterns.reshape(-1, channels).T
  index = np.empty(rows.shape, np.uint8)
  levels = np.empty((channels, 2**bits), patterns.dtype)
  for row, found, table in zip(rows, index, levels, strict=True):
    values, inverse = np.unique(row, return_inverse=True)
    if len(values) > 2**bits:
      raise ValueError(
        f"must have at most {2**bits} levels for bits={bits}; it has "
        f"{len(values)}"
      )
    found[:] = inverse
    table[: len(values)], table[len(values) :] = values, values[-1]
  levels = levels.view(x.dtype)
  return Packed(_planes(index.T, bits), levels if channelwise else levels[0])


def pack_nearest(x: np.ndarray, codebook: Codebook) -> Packed:
  """The same, of a tensor whose weights go to the nearest levels.

  Args:
    x: weights, of any shape.
    codebook: its levels, at least one; as many for each channel.

  Raises:
    ValueError: weights or levels that are not finite, levels that are not
      sorted, or that the type of the weights does not hold.
  """
  count = int(np.max(codebook.levels))
  centers = np.asarray(codebook.centers)[..., :count]
  if not (np.isfinite(x).all() and np.isfinite(centers).all()):
    raise ValueError("must be finite, with finite levels")
  if (centers[..., 1:] < centers[..., :-1]).any():
    raise ValueError("must have levels that are sorted, the least first")
  # As in `nearest`: a weight in the middle goes to the lower level. There is no
  # search in bfloat16.
  wide = np.float64 if x.dtype == np.float64 else np.float32
  levels, weights = centers.astype(wide), x.astype(wide)
  borders = wide(0.5) * levels[..., :-1] + wide(0.5) * levels[..., 1:]
  if levels.ndim == 1:
    index = np.searchsorted(borders, weights)
  else:
    columns = zip(borders, weights.reshape(-1, len(levels)).T, strict=True)
    index = np.stack([np.searchsorted(*pair) for pair in columns], axis=-1)
  bits = bits_for(count)
  # Levels beyond the last one are its copies.
  table = centers[..., np.minimum(np.arange(2**bits), count - 1)]
  with np.errstate(over="ignore"):
    table = table.astype(x.dtype, order="C")
  if not np.isfinite(table).all():
    raise ValueError(f"must have levels that its type, {x.dtype}, holds")
  return Packed(_planes(index.astype(np.uint8), bits), table)


def bits_for(count: int) -> int:
  """The bits of an index to so many levels."""
  return max(1, (count - 1).bit_length())


def _planes(index: np.ndarray, bits: int) -> np.ndarray:
  stream = index.reshape(-1)
  planes = np.stack([np.packbits((stream >> b) & 1) for b in range(bits)])
  return planes


def unpack(
  planes: np.ndarray, levels: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  """The tensor that `pack` packed."""
  index = np.zeros(math.prod(shape), np.uint8)
  for b, plane in enumerate(planes):
    index |= np.unpackbits(plane, count=index.size) << b
  if levels.ndim == 1:
    return levels[index].reshape(shape)
  channels = np.arange(len(levels))
  return levels[channels, index.reshape(-1, len(levels))].reshape(shape)


def codebook(levels: np.ndarray, count: int | None = None) -> Codebook:
  """The levels of a packed tensor as a codebook of NumPy arrays.

  Args:
    levels: see `Packed`.
    count: how many of them there are, in order, for each channel; None for
      those that differ, which may be in any order.
  """
  rows = levels.reshape(-1, levels.shape[-1])
  patterns = rows.view(f"u{levels.dtype.itemsize}")
  counts = [len(np.unique(row)) if count is None else count for row in patterns]
  centers = np.stack(
    [
      # What follows are copies.
      np.pad(np.sort(row[:n]), (0, len(row) - n), mode="edge")
      for row, n in zip(rows, counts, strict=True)
    ]
  )
  shape, levels_of = levels.shape[:-1], np.array(counts, np.int32)
  arrays: Any = centers.reshape(levels.shape), levels_of.reshape(shape)
  return Codebook(*arrays)
