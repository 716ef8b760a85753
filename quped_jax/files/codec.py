"""Quantized tensors as bit planes and levels, and back."""

import math

import numpy as np


def pack(x: np.ndarray, bits: int, channelwise: bool):
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
  stream = index.T.reshape(-1)
  planes = np.stack([np.packbits((stream >> b) & 1) for b in range(bits)])
  levels = levels.view(x.dtype)
  return planes, levels if channelwise else levels[0]


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
