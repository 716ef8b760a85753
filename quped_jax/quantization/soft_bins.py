"""Bins: how the soft quantizer treats many weights as few.

Where weights are many, the sum over the steps is taken at evenly spaced bins
alone. A weight then interpolates its value and its derivative between two bins,
and splits its contribution to the gradient of the levels between them: a few
lookups and two scatters, whatever the number of levels.
"""

import jax.numpy as jnp

from quped_jax.quantization import level_sums

# Bins per 1 / P, the length over which a step rises. A sigmoid interpolated
# between them is off by at most 0.1 / 12**2 / 8 = 1e-4.
_BINS = 12
# At this many times 1 / P beyond the outermost levels, all sigmoids are 0 or 1.
_SATURATED = 16


def bin_count(max_levels, sharpness, size):
  """How many bins to use; 0 for none.

  Args:
    max_levels: how many levels a codebook may have.
    sharpness: of the soft quantizer, in gaps.
    size: the number of weights.
  """
  # Two levels take two sums, as many as the binning itself.
  if max_levels == 2:
    return 0
  bins = int(_BINS * (sharpness * (max_levels - 1) + 2 * _SATURATED))
  return bins if 2 * bins <= size else 0


def _grid(bins, centers, slope):
  """The first of `bins` evenly spaced weights, and the distance between them.

  Below and above them all sigmoids are 0 or 1, and functions constant.
  """
  margin = _SATURATED / slope
  # Levels may be so large that the margin, or the whole length, overflows.
  largest = jnp.finfo(centers.dtype).max / 2
  low = jnp.maximum(centers[0] - margin, -largest)
  span = jnp.minimum(centers[-1] - centers[0] + 2 * margin, largest - low)
  return low, span / (bins - 1)


def _place(bins, x, centers, slope):
  """The bins around a weight: (index of the left one, share of the right one).

  A function interpolated between bins is off by at most its curvature times the
  square of their distance, over 8.
  """
  low, width = _grid(bins, centers, slope)
  place = jnp.clip((x - low) * (1 / width), 0, bins - 1)
  # Clipped again because of NaN, which passes the clipping before the cast.
  left = jnp.clip(place.astype(jnp.int32), 0, bins - 2)
  return left, place - left


def interpolate(fn, bins, x, centers, slope):
  """`fn` of the weights, interpolated between its values at the bins.

  Args:
    fn: `weights -> values`, of each weight by itself.
    bins: how many bins; 0 for `fn` of the weights themselves.
    x: weights, any shape.
    centers: the levels, `[max_levels]`.
    slope: P, the slope of the steps.

  Returns:
    Values, of the shape of x.
  """
  if not bins:
    return fn(x)
  low, distance = _grid(bins, centers, slope)
  nodes = low + distance * jnp.arange(bins, dtype=x.dtype)
  table = fn(nodes)
  left, share = _place(bins, x, centers, slope)
  at = table.at[left].get(mode="promise_in_bounds")
  following = table.at[left + 1].get(mode="promise_in_bounds")
  return at + share * (following - at)


def binned(bins, x, cotangent, centers, slope, *, deterministic=False):
  """The bins, as weights that stand for all others, with their cotangents.

  A weight contributes to the gradient of a level its cotangent times a smooth
  function of the weight. Splitting the cotangent between two bins interpolates
  that function.

  Args:
    bins: how many bins.
    x: weights, any shape.
    cotangent: of the quantized weights, of the shape of x.
    centers: the levels, `[max_levels]`.
    slope: P, the slope of the steps.
    deterministic: see `level_sums.form`.

  Returns:
    The bins and their cotangents, `[bins]` each.
  """
  left, share = _place(bins, x.ravel(), centers, slope)
  cotangent = cotangent.ravel()

  def scatter(values):
    return level_sums.sum_by_bin(
      values, left, bins, deterministic=deterministic
    )

  right = scatter(cotangent * share)
  sums = scatter(cotangent) - right + jnp.roll(right, 1)
  low, width = _grid(bins, centers, slope)
  return low + width * jnp.arange(bins, dtype=x.dtype), sums
