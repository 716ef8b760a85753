"""The windowed form of the soft quantizer's sum over steps.

A weight's sum runs over a window: the step between the two levels around the
weight, and as many steps on either side as accuracy requires (one, with evenly
spaced levels and the default sharpness).
"""

import jax
import jax.numpy as jnp

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import level_sums, soft_bins
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.soft_steps import one_step

# The most that the steps left out on one side of the window may contribute to a
# weight, in mean gaps, and to its derivative.
_WINDOW_ERROR = 5e-4


def _shifted(centers: jax.Array, offset: int | jax.Array) -> jax.Array:
  """Entry k is center k + offset, or the last in that direction."""
  last = centers.shape[0] - 1
  return centers[jnp.clip(jnp.arange(last + 1) + offset, 0, last)]


def window_width(codebook: Codebook, slope: jax.Array) -> jax.Array:
  r"""How many steps on either side of its own a weight's sum must include.

  A weight between levels l and l + 1 is at least :math:`u = c_l - m_j` above
  the middle :math:`m_j` of a lower step j, so it lacks at most the share
  :math:`e^{-P u}` of that step. This share must be small as it is, for the
  gradients of the levels, times the gap, for the value, and times P and the
  gap, for the derivative. Of all steps below :math:`c_j` together, the weight
  lacks at most the integral of :math:`e^{-P u}` over the distance u (Jensen),
  :math:`e^{-P (c_l - c_j)} / P`. The same holds for the steps above.
  """
  centers = jax.lax.stop_gradient(codebook_lib.view_centers(codebook))
  high = _shifted(centers, 1)
  cell = jnp.arange(codebook.max_levels)
  last = codebook.levels - 2
  allowed = _WINDOW_ERROR * jnp.minimum(
    codebook_lib.mean_gap(codebook), 1 / slope
  )

  def too_much(distance, gap, rest, step, further):
    """Whether omitting a step, and any `further` ones, would lose too much."""
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
  """The level below each weight, the lower one of the weight's own step.

  Beyond the levels, the outermost step counts as a weight's own.
  """
  index = codebook_lib.nearest(x, Codebook(centers, levels))
  index -= x <= level_sums.entries(centers, index)
  return jnp.clip(index, 0, jnp.maximum(levels - 2, 0))


def _reader(x, centers, levels):
  """Returns a function of an offset: the levels that far from the cells."""
  cell = _cells(x, centers, levels)
  return lambda offset: level_sums.entries(_shifted(centers, offset), cell)


def _steps(x, read, slope, offset):
  """The steps `offset` below and above each weight's own."""
  below = one_step(x, read(-offset), read(1 - offset), slope)
  return below, one_step(x, read(offset), read(1 + offset), slope)


def _widen(width, add, total):
  """Adds what lies more than one step away, up to `width`."""
  # Without the condition, what the loop's iterations share would be computed,
  # over all weights, even if there are none.
  return jax.lax.cond(
    width > 1,
    lambda total: jax.lax.fori_loop(2, width + 1, add, total),
    lambda total: total,
    total,
  )


def _sum(x, centers, levels, slope, width):
  """The sum over the steps within `width` of the one around each weight.

  That is c_l, plus what the weight has climbed of its own step and those above,
  minus what is missing of those below: the definition, regrouped around cell l.
  """
  read = _reader(x, centers, levels)

  def add(offset, soft):
    below, above = _steps(x, read, slope, offset)
    return soft + above[0] * above[1] - below[0] * (1 - below[1])

  low = read(0)
  gap, share, _ = one_step(x, low, read(1), slope)
  return _widen(width, add, add(1, low + gap * share))


def _derivative(x, centers, levels, slope, width):
  """The derivative of `_sum` with respect to each weight."""
  read = _reader(x, centers, levels)

  def add(offset, derivative):
    below, above = _steps(x, read, slope, offset)
    return derivative + 2 * (below[2] + above[2])

  own = 2 * one_step(x, read(0), read(1), slope)[2]
  return _widen(width, add, add(1, own))


def _levels_gradient(
  x, cotangent, centers, levels, slope, width, *, deterministic
):
  """Sums what each weight contributes to the levels in its window."""
  cell = _cells(x, centers, levels)
  read = _reader(x, centers, levels)
  count = centers.shape[0]

  def fold(offsets, rows):
    sums = level_sums.sum_by_level(
      [cotangent * row for row in rows], cell, count, deterministic
    )
    gradient = jnp.zeros(count, sums.dtype)
    for offset, each in zip(offsets, sums, strict=True):
      k = jnp.clip(jnp.arange(count) + offset, 0, count - 1)
      if deterministic:
        # The last level in a direction takes what lies beyond it, in order.
        taken = k[None] == jnp.arange(count)[:, None]
        gradient += jnp.sum(jnp.where(taken, each[None], 0), axis=1)
      else:
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

  _, share, bend = one_step(x, read(0), read(1), slope)
  own = fold((0, 1), [1 - share - bend, share - bend])
  return _widen(width, add, add(1, own))


def value(bins, x, centers, levels, slope):
  """The sum over the steps of the window around each weight.

  Args:
    bins: how many bins the values take; 0 for none.
    x: weights, any shape.
    centers: the levels, `[max_levels]`, of the dtype of x.
    levels: how many of them are valid.
    slope: P, the slope of the steps.

  Returns:
    (quantized weights, of the shape of x; steps on either side of a weight's
    own in the window, see `window_width`).
  """
  width = window_width(Codebook(centers, levels), slope)
  rest = centers, levels, slope, width
  soft = soft_bins.interpolate(
    lambda points: _sum(points, *rest), bins, x, centers, slope
  )
  return soft, width


def gradients(bins, deterministic, x, cotangent, centers, levels, slope, width):
  """The gradients of `value`: (to x, to the centers)."""
  rest = centers, levels, slope, width
  derivative = soft_bins.interpolate(
    lambda points: _derivative(points, *rest), bins, x, centers, slope
  )
  to_x = cotangent * derivative
  if bins:
    x, cotangent = soft_bins.binned(
      bins, x, cotangent, centers, slope, deterministic=deterministic
    )
  to_levels = _levels_gradient(x, cotangent, *rest, deterministic=deterministic)
  return to_x, to_levels
