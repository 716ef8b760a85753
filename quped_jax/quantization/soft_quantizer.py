r"""The soft quantizer: differentiable in the weights and in the levels.

.. math::
  \tilde Q_c(x) = c_1 + \sum_{k=2}^m (c_k - c_{k-1})
    \, \sigma(P (x - (c_k + c_{k-1}) / 2))

Up to four levels are summed as they stand. With more, a weight's sum runs
over a window: the step between the two levels around it and as many on either
side as the accuracy asks for, with evenly spaced levels and the default
sharpness one. Where weights are many, only evenly spaced bins are treated so.
A weight then reads its value and its derivative between two bins, and divides
what it gives to the gradient of the levels between them: a few lookups and
two scatters, whatever the number of levels.

Gradients are written out rather than left to autodiff, so that only the
weights are kept for them and only what is asked for is computed.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (section 2).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.codebook import Codebook

SHARPNESS_UNITS = ("gap", "absolute")

# Up to this number of levels all steps are summed.
_DENSE_LEVELS = 4
# What the steps on one side of the window may add to a weight, in mean gaps,
# and to its derivative.
_WINDOW_ERROR = 5e-4
# Bins per 1 / P, the length over which a step rises. Interpolating a sigmoid
# between them is off by at most 0.1 / 12**2 / 8 = 1e-4.
_BINS = 12
# So many times 1 / P beyond the outermost levels all steps are climbed or not.
_SATURATED = 16
# Gaps are floored here, so that coinciding levels give finite steepness.
_MIN_GAP = 1e-8


def check_sharpness(sharpness: Any, unit: str) -> None:
  """Raises a ValueError unless the two make sense."""
  if unit not in SHARPNESS_UNITS:
    raise ValueError(
      f"sharpness_unit={unit!r}: must be one of {', '.join(SHARPNESS_UNITS)}"
    )
  if not codebook_lib.is_traced(sharpness) and not np.all(
    np.asarray(sharpness) > 0
  ):
    raise ValueError(f"sharpness={sharpness}: must be positive")


def steepness(
  codebook: Codebook, sharpness: float | jax.Array, unit: str = "gap"
) -> jax.Array:
  r"""The slope P of the soft quantizer's sigmoids, without gradient.

  .. math:: P = \mathrm{sharpness} / \frac{c_m - c_1}{m - 1}

  Args:
    codebook: the levels, of one tensor or channel.
    sharpness: in units of the mean gap between levels, or absolute.
    unit: "gap" or "absolute" (the paper's reading).

  Raises:
    ValueError: unknown unit, or a sharpness that is not positive.
  """
  check_sharpness(sharpness, unit)
  if unit == "absolute":
    return jnp.asarray(sharpness, codebook.centers.dtype)
  return sharpness / _mean_gap(codebook)


def _mean_gap(codebook: Codebook) -> jax.Array:
  centers = jax.lax.stop_gradient(codebook_lib.view_centers(codebook))
  count = jnp.maximum(codebook.levels - 1, 1)
  return jnp.maximum(centers[-1] / count - centers[0] / count, _MIN_GAP)


def _step(x, low, high, slope):
  """The step between two neighbouring levels.

  Returns:
    gap: its height.
    share: what a weight has climbed of it, the sigmoid; by tanh, which XLA
      evaluates faster than an exponential and a division.
    bend: half the derivative of `gap * share` to x, which is minus that to
      either level through the place of the step.
  """
  gap = high - low
  share = 0.5 + 0.5 * jnp.tanh(slope / 2 * (x - (low + high) / 2))
  return gap, share, slope / 2 * gap * share * (1 - share)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense(bins, x, centers, slope):
  """The sum over all steps, as the definition says."""
  del bins
  soft = jnp.broadcast_to(centers[0], x.shape)
  for low, high in zip(centers[:-1], centers[1:], strict=True):
    gap, share, _ = _step(x, low, high, slope)
    soft += gap * share
  return soft


def _dense_fwd(bins, x, centers, slope):
  return _dense(bins, x, centers, slope), (x, centers, slope)


def _dense_bwd(bins, residuals, cotangent):
  x, centers, slope = residuals
  derivative = jnp.zeros_like(x)
  for low, high in zip(centers[:-1], centers[1:], strict=True):
    derivative += 2 * _step(x, low, high, slope)[2]
  to_x = cotangent * derivative
  if bins:
    x, cotangent = _binned(bins, x, cotangent, centers, slope)
  to_level = [jnp.ones_like(x)] + [0.0] * (centers.shape[0] - 1)
  for k in range(1, centers.shape[0]):
    _, share, bend = _step(x, centers[k - 1], centers[k], slope)
    to_level[k - 1] += -share - bend
    to_level[k] += share - bend
  # Level by level: a sum that produces what it adds takes one pass.
  gradient = jnp.stack([jnp.sum(cotangent * share) for share in to_level])
  return to_x, gradient, jnp.zeros_like(slope)


_dense.defvjp(_dense_fwd, _dense_bwd)


def _shifted(centers: jax.Array, offset: int | jax.Array) -> jax.Array:
  """Entry k is center k + offset, or the last in that direction."""
  last = centers.shape[0] - 1
  return centers[jnp.clip(jnp.arange(last + 1) + offset, 0, last)]


def _window_width(codebook: Codebook, slope: jax.Array) -> jax.Array:
  r"""How many steps on either side of a weight's own its sum must include.

  A weight between levels l and l + 1 is at least :math:`u = c_l - m_j` above
  the middle of a lower step j, of which it thus lacks at most the share
  :math:`e^{-P u}`, which must be small for the gradients of the levels, also
  when multiplied by the gap, for the value, and by P times the gap, for the
  derivative. All steps below :math:`c_j` together lack at most the integral of
  :math:`e^{-P u}` over the distance u (Jensen), :math:`e^{-P (c_l - c_j)} / P`.
  Above it is alike.
  """
  centers = jax.lax.stop_gradient(codebook_lib.view_centers(codebook))
  high = _shifted(centers, 1)
  cell = jnp.arange(codebook.max_levels)
  last = codebook.levels - 2
  allowed = _WINDOW_ERROR * jnp.minimum(_mean_gap(codebook), 1 / slope)

  def too_much(distance, gap, rest, step, further):
    """Whether a step, with those `further` away, must be in the window."""
    share = jnp.exp(-slope * distance)
    lost = gap * share
    lost += jnp.where(further, jnp.exp(-slope * rest) / slope, 0)
    return step & ((share > _WINDOW_ERROR) | (lost > allowed))

  def too_narrow(width):
    near, far = _shifted(centers, -width), _shifted(centers, -width - 1)
    step = cell - width - 1
    below = too_much(
      centers - (near + far) / 2, near - far, centers - far, step >= 0, step > 0
    )
    near, far = _shifted(centers, width + 1), _shifted(centers, width + 2)
    step = cell + width + 1
    above = too_much(
      (near + far) / 2 - high, far - near, far - high, step <= last, step < last
    )
    return jnp.any((below | above) & (cell <= last))

  return jax.lax.while_loop(too_narrow, lambda width: width + 1, jnp.int32(1))


def _cells(x, centers, levels):
  """The level at or below each weight, but not the last: its step's foot.

  Beyond the levels the outermost steps count as a weight's own.
  """
  index = codebook_lib.nearest(x, Codebook(centers, levels))
  index -= x <= codebook_lib.entries(centers, index)
  return jnp.clip(index, 0, jnp.maximum(levels - 2, 0))


def _reader(x, centers, levels):
  """Returns a function of an offset: the levels that far from the cells'."""
  cell = _cells(x, centers, levels)
  return lambda offset: codebook_lib.entries(_shifted(centers, offset), cell)


def _steps(x, read, slope, offset):
  """The steps `offset` below and above each weight's own."""
  below = _step(x, read(-offset), read(1 - offset), slope)
  return below, _step(x, read(offset), read(1 + offset), slope)


def _widen(width, add, total):
  """Adds what lies more than one step away, up to `width`."""
  # The condition keeps what the loop shares between its turns from being
  # computed, over all weights, where there are none.
  return jax.lax.cond(
    width > 1,
    lambda total: jax.lax.fori_loop(2, width + 1, add, total),
    lambda total: total,
    total,
  )


def _sum(x, centers, levels, slope, width):
  """The sum over the steps within `width` of the one around each weight.

  c_l, plus what the weight has climbed of its own step and those above, less
  what it lacks of those below: the definition, regrouped around its cell l.
  """
  read = _reader(x, centers, levels)

  def add(offset, soft):
    below, above = _steps(x, read, slope, offset)
    return soft + above[0] * above[1] - below[0] * (1 - below[1])

  low = read(0)
  gap, share, _ = _step(x, low, read(1), slope)
  return _widen(width, add, add(1, low + gap * share))


def _derivative(x, centers, levels, slope, width):
  """The derivative of `_sum` to each weight."""
  read = _reader(x, centers, levels)

  def add(offset, derivative):
    below, above = _steps(x, read, slope, offset)
    return derivative + 2 * (below[2] + above[2])

  own = 2 * _step(x, read(0), read(1), slope)[2]
  return _widen(width, add, add(1, own))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _windowed(bins, x, centers, levels, slope, width):
  """The soft quantizer by the window around each weight."""
  rest = centers, levels, slope, width
  if bins:
    return _interpolate(_sum, bins, x, *rest)
  return _sum(x, *rest)


def _windowed_fwd(bins, x, *rest):
  return _windowed(bins, x, *rest), (x, *rest)


def _windowed_bwd(bins, residuals, cotangent):
  x, *rest = residuals
  centers, _, slope, _ = rest
  if bins:
    derivative = _interpolate(_derivative, bins, x, *rest)
  else:
    derivative = _derivative(x, *rest)
  to_x = cotangent * derivative
  if bins:
    x, cotangent = _binned(bins, x, cotangent, centers, slope)
  gradient = _levels_gradient(x, cotangent, *rest)
  return to_x, gradient, None, jnp.zeros_like(slope), None


_windowed.defvjp(_windowed_fwd, _windowed_bwd)


def _bins(max_levels, sharpness, size):
  """How many bins the gradient of the levels takes; 0 for none."""
  # Two levels take two sums, and so does the binning.
  if max_levels == 2:
    return 0
  bins = int(_BINS * (sharpness * (max_levels - 1) + 2 * _SATURATED))
  return bins if 2 * bins <= size else 0


def _grid(bins, centers, slope):
  """The first of `bins` evenly spaced weights, and their distance.

  Below and above them all steps are climbed or not, and functions constant.
  """
  margin = _SATURATED / slope
  # Levels may be so large that the margin, or the whole length, has no number.
  largest = jnp.finfo(centers.dtype).max / 2
  low = jnp.maximum(centers[0] - margin, -largest)
  span = jnp.minimum(centers[-1] - centers[0] + 2 * margin, largest - low)
  return low, span / (bins - 1)


def _place(bins, x, centers, slope):
  """Between which bins a weight lies: (the left one, the share of the right).

  A function interpolated between bins is off by at most its curvature times
  their distance squared, over 8.
  """
  low, width = _grid(bins, centers, slope)
  place = jnp.clip((x - low) * (1 / width), 0, bins - 1)
  # Clipped again for NaN, which no clipping before the cast would catch.
  left = jnp.clip(place.astype(jnp.int32), 0, bins - 2)
  return left, place - left


def _interpolate(fn, bins, x, centers, levels, slope, width):
  """`fn` of the weights, interpolated between bins."""
  low, distance = _grid(bins, centers, slope)
  nodes = low + distance * jnp.arange(bins, dtype=x.dtype)
  table = fn(nodes, centers, levels, slope, width)
  left, share = _place(bins, x, centers, slope)
  at = table.at[left].get(mode="promise_in_bounds")
  following = table.at[left + 1].get(mode="promise_in_bounds")
  return at + share * (following - at)


def _binned(bins, x, cotangent, centers, slope):
  """The bins, as weights that stand for all, with their cotangents.

  What a weight's cotangent gives to a level is a smooth function of the
  weight. Dividing every cotangent between two bins interpolates it.
  """
  left, share = _place(bins, x.ravel(), centers, slope)
  cotangent = cotangent.ravel()

  def scatter(values):
    zeros = jnp.zeros(bins, values.dtype)
    return zeros.at[left].add(values, mode="promise_in_bounds")

  right = scatter(cotangent * share)
  sums = scatter(cotangent) - right + jnp.roll(right, 1)
  low, width = _grid(bins, centers, slope)
  return low + width * jnp.arange(bins, dtype=x.dtype), sums


def _levels_gradient(x, cotangent, centers, levels, slope, width):
  """Sums over the weights of what each gives to the levels of its window."""
  cell = _cells(x, centers, levels)
  read = _reader(x, centers, levels)
  count = centers.shape[0]

  def fold(offsets, rows):
    sums = codebook_lib.sum_by_level(
      [cotangent * row for row in rows], cell, count
    )
    gradient = jnp.zeros(count, sums.dtype)
    for offset, each in zip(offsets, sums, strict=True):
      k = jnp.clip(jnp.arange(count) + offset, 0, count - 1)
      gradient = gradient.at[k].add(each)
    return gradient

  def add(offset, gradient):
    (_, below, bend_below), (_, above, bend_above) = _steps(
      x, read, slope, offset
    )
    rows = [
      1 - below - bend_below,
      below - 1 - bend_below,
      -above - bend_above,
      above - bend_above,
    ]
    return gradient + fold((-offset, 1 - offset, offset, 1 + offset), rows)

  _, share, bend = _step(x, read(0), read(1), slope)
  own = fold((0, 1), [1 - share - bend, share - bend])
  return _widen(width, add, add(1, own))


@codebook_lib.channelwise
def soft_quantize(
  x: jax.Array,
  codebook: Codebook,
  sharpness: float | jax.Array = 10.0,
  *,
  unit: str = "gap",
) -> jax.Array:
  r"""A differentiable quantizer, :math:`\tilde Q_c(x)`.

  .. math::
    \tilde Q_c(x) = c_1 + \sum_{k=2}^m (c_k - c_{k-1})
      \, \sigma(P (x - (c_k + c_{k-1}) / 2))

  It tends to `hard_quantize` as the sharpness grows, and is differentiable in
  x and in the centers (P carries no gradient). With full precision: x.

  Up to four levels are summed in full, more in a window around each weight
  that widens where levels are so uneven, or the sharpness so low, that it
  must: an absolute sharpness that is sharp at 1 bit is not at 8, and costs
  accordingly. With more than four levels, many weights (from 4 500 at 4 bits
  and 62 000 at 8) and a sharpness in gaps that is a number, not traced, each
  weight interpolates between bins. The result agrees with the full sum to
  1e-3 of the mean gap, and 1e-4 of the largest; the derivative to 1e-3 of its
  largest value; what a weight gives to the gradient of a level to 1e-3.

  Passes over the weights: one for the value and one for the gradient of x,
  each with a few sigmoids or two lookups; for the gradient of the levels two
  sums with two levels, otherwise three that prepare and two that scatter
  (also with three or four levels, where weights are many). The gradients
  compute from x alone what they need.

  Args:
    x: weights, any shape.
    codebook: the levels.
    sharpness: slope of the steps, in the `unit`.
    unit: "gap": of the mean distance between levels; "absolute": of x.

  Returns:
    An array of the shape of x.
  """
  slope = steepness(codebook, sharpness, unit)
  dtype = jnp.result_type(x, codebook.centers)
  weights = x.astype(dtype)
  centers = codebook_lib.view_centers(codebook).astype(dtype)
  slope = slope.astype(dtype)
  bins = 0
  if unit == "gap" and not codebook_lib.is_traced(sharpness):
    bins = _bins(codebook.max_levels, float(sharpness), x.size)
  if codebook.max_levels <= _DENSE_LEVELS:
    soft: jax.Array = _dense(bins, weights, centers, slope)
  else:
    width = _window_width(codebook, slope)
    soft = _windowed(bins, weights, centers, codebook.levels, slope, width)
  return jnp.where(codebook.levels > 0, soft.astype(x.dtype), x)


def soft_quantize_tree(
  params: Any,
  codebooks: Any,
  sharpness: float | jax.Array = 10.0,
  *,
  unit: str = "gap",
) -> Any:
  """`soft_quantize` of every tensor that has a codebook."""
  return codebook_lib.map_codebooks(
    lambda codebook, x: soft_quantize(x, codebook, sharpness, unit=unit),
    codebooks,
    params,
    otherwise=lambda x: x,
  )
