r"""The soft quantizer: differentiable in the weights and in the levels.

.. math::
  \tilde Q_c(x) = c_1 + \sum_{k=2}^m (c_k - c_{k-1})
    \, \sigma(P (x - (c_k + c_{k-1}) / 2))

Up to four levels are summed as they stand. With more, a weight's sum runs
over a window: the step between the two levels around it and as many on either
side as the accuracy asks for, with evenly spaced levels and the default
sharpness one. Gradients are written out rather than left to autodiff, so that
only the weights are kept for them and only what is asked for is computed.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (section 2).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import codebook as codebook_lib
from quped_jax.codebook import Codebook

SHARPNESS_UNITS = ("gap", "absolute")

# Up to this number of levels all steps are summed.
_DENSE_LEVELS = 4
# What the steps on one side of the window may add to a weight, in mean gaps,
# and to its derivative.
_WINDOW_ERROR = 5e-4
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


@jax.custom_vjp
def _dense(x, centers, slope):
  """The sum over all steps, as the definition says."""
  soft = jnp.broadcast_to(centers[0], x.shape)
  for low, high in zip(centers[:-1], centers[1:], strict=True):
    gap, share, _ = _step(x, low, high, slope)
    soft += gap * share
  return soft


def _dense_fwd(x, centers, slope):
  return _dense(x, centers, slope), (x, centers, slope)


def _dense_bwd(residuals, cotangent):
  x, centers, slope = residuals
  derivative = jnp.zeros_like(x)
  to_level = [jnp.ones_like(x)] + [0.0] * (centers.shape[0] - 1)
  for k in range(1, centers.shape[0]):
    _, share, bend = _step(x, centers[k - 1], centers[k], slope)
    derivative += 2 * bend
    to_level[k - 1] += -share - bend
    to_level[k] += share - bend
  # Level by level: a sum that produces what it adds takes one pass.
  gradient = jnp.stack([jnp.sum(cotangent * share) for share in to_level])
  return cotangent * derivative, gradient, jnp.zeros_like(slope)


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


@jax.custom_vjp
def _windowed(x, centers, cell, slope, width):
  """The sum over the steps within `width` of the one around each weight.

  c_l, plus what the weight has climbed of its own step and those above, less
  what it lacks of those below: the definition, regrouped around l = `cell`.
  """
  a, b, c, d = _around(centers, cell)
  soft = b + _climbed(x, b, c, slope) + _climbed(x, c, d, slope)
  soft -= _lacked(x, a, b, slope)

  def add(offset, soft):
    low = [_at(centers, cell, k - offset) for k in (0, 1)]
    high = [_at(centers, cell, k + offset) for k in (0, 1)]
    return soft + _climbed(x, *high, slope) - _lacked(x, *low, slope)

  return jax.lax.fori_loop(2, width + 1, add, soft)


def _at(centers, cell, offset):
  return codebook_lib.entries(_shifted(centers, offset), cell)


def _around(centers, cell):
  """The four levels around each weight, two on either side."""
  return [_at(centers, cell, offset) for offset in (-1, 0, 1, 2)]


def _climbed(x, low, high, slope):
  gap, share, _ = _step(x, low, high, slope)
  return gap * share


def _lacked(x, low, high, slope):
  gap, share, _ = _step(x, low, high, slope)
  return gap * (1 - share)


def _windowed_fwd(x, centers, cell, slope, width):
  soft = _windowed(x, centers, cell, slope, width)
  return soft, (x, centers, cell, slope, width)


def _windowed_bwd(residuals, cotangent):
  x, centers, cell, slope, width = residuals
  levels = centers.shape[0]
  a, b, c, d = _around(centers, cell)
  _, below, bend_below = _step(x, a, b, slope)
  _, share, bend = _step(x, b, c, slope)
  _, above, bend_above = _step(x, c, d, slope)
  rows = [
    1 - below - bend_below,
    below - bend_below - share - bend,
    share - bend - above - bend_above,
    above - bend_above,
  ]
  offsets = (-1, 0, 1, 2)
  gradient = _fold(rows, offsets, cotangent, cell, levels)
  derivative = 2 * (bend_below + bend + bend_above)

  def further(offset):
    low = [_at(centers, cell, k - offset) for k in (0, 1)]
    high = [_at(centers, cell, k + offset) for k in (0, 1)]
    return _step(x, *low, slope), _step(x, *high, slope)

  def add_derivative(offset, derivative):
    (_, _, below), (_, _, above) = further(offset)
    return derivative + 2 * (below + above)

  def add_gradient(offset, gradient):
    (_, below, bend_below), (_, above, bend_above) = further(offset)
    rows = [
      1 - below - bend_below,
      below - 1 - bend_below,
      -above - bend_above,
      above - bend_above,
    ]
    offsets = (-offset, 1 - offset, offset, 1 + offset)
    return gradient + _fold(rows, offsets, cotangent, cell, levels)

  # Two loops, so that each goes if its result is not asked for.
  derivative = jax.lax.fori_loop(2, width + 1, add_derivative, derivative)
  gradient = jax.lax.fori_loop(2, width + 1, add_gradient, gradient)
  return cotangent * derivative, gradient, None, jnp.zeros_like(slope), None


def _fold(rows, offsets, cotangent, cell, levels):
  """Sums rows of derivatives to the levels `offsets` away from each cell."""
  sums = codebook_lib.sum_by_level(
    [cotangent * row for row in rows], cell, levels
  )
  gradient = jnp.zeros(levels, sums.dtype)
  for offset, each in zip(offsets, sums, strict=True):
    k = jnp.clip(jnp.arange(levels) + offset, 0, levels - 1)
    gradient = gradient.at[k].add(each)
  return gradient


_windowed.defvjp(_windowed_fwd, _windowed_bwd)


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

  More than four levels are summed in a window around each weight: the cost
  does not grow with the number of levels, but for the search of the window.
  It agrees with the full sum to 1e-3 of the mean gap and widens where levels
  are so uneven, or the sharpness so low, that it otherwise would not: an
  absolute sharpness that is sharp at 1 bit is not at 8, and costs
  accordingly.

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
  if codebook.max_levels <= _DENSE_LEVELS:
    soft = _dense(weights, centers, slope.astype(dtype))
  else:
    # Levels that coincide are all one step of height zero after another.
    fixed = jax.lax.stop_gradient(centers)
    index = codebook_lib.nearest(x, codebook)
    cell = index - (weights <= codebook_lib.entries(fixed, index))
    cell = jnp.clip(cell, 0, jnp.maximum(codebook.levels - 2, 0))
    width = _window_width(codebook, slope)
    soft = _windowed(weights, centers, cell, slope.astype(dtype), width)
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
