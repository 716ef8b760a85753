r"""Rules by which levels are fitted to the weights of a tensor.

Each takes weights, the number m of levels and room for levels, and returns as
many centers as there is room for, of which the first m count; see
`codebook.init_codebook`, which also has a rule of its own, "range".

References:
  Jin, Ma, Liu, Lee, PARQ: Piecewise-Affine Regularized Quantization, 2025
  (uniform and lsbq, as its code has them).
  Pouransari, Tu, Tuzel, Least squares binary quantization of neural networks,
  2020 (lsbq).
  Esser, McKinstry, Bablani, Appuswamy, Modha, Learned Step Size Quantization,
  2020 (lsq).
  Lloyd, Least squares quantization in PCM, 1982 (kmeans).
"""

from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.quantization import level_sums

RULES = ("range", "uniform", "lsbq", "lsq", "kmeans")

# Where all weights are zero, levels are about as far apart as this.
_SMALL = 1e-3
# Rounds of Lloyd's algorithm.
_ROUNDS = 50


def check(rule: str, outer_level: Any, field: str = "initial_levels") -> None:
  """Raises a ValueError unless there is such a rule, which takes such a level.

  Args:
    rule: its name.
    outer_level: what is given as the outermost level; None or 0 for nothing.
    field: what the error calls the rule.
  """
  checks.choice(field, rule, RULES)
  if outer_level and rule != "range":
    raise ValueError(
      f"outer_level={outer_level}: must not be given with {field}={rule!r}, "
      "which takes the levels from the weights"
    )


def _mean_size(x: jax.Array) -> jax.Array:
  """The mean of the absolute values, which does not overflow."""
  return jnp.sum(jnp.abs(x) / x.size)


def _or_small(scale: jax.Array, instead: float | jax.Array) -> jax.Array:
  """A scale that is positive, whatever the weights are."""
  return jnp.where(scale > 0, scale, instead)


def uniform(x: jax.Array, levels: jax.Array, room: int) -> jax.Array:
  r"""Evenly spaced levels around zero, as far as most weights go.

  .. math::
    \pm (j + \tfrac12) s, \quad s = \frac{q}{(m - 1) / 2}, \quad
    q = \min(b \, \overline{|x|}, \max |x|), \quad m = 2^b

  Args:
    x: weights, any shape.
    levels: m, int32 `[]`.
    room: how many centers to return.
  """
  bits = jnp.log2(jnp.maximum(levels, 2).astype(x.dtype))
  outer = jnp.minimum(bits * _mean_size(x), jnp.max(jnp.abs(x)))
  # In units of the outer level, so that 256 levels do not overflow.
  top = jnp.maximum(levels - 1, 1)
  return _or_small(outer, _SMALL) * (2 * jnp.arange(room) - top) / top


def lsbq(x: jax.Array, levels: jax.Array, room: int) -> jax.Array:
  r"""All sums of plus or minus b scales, which are fitted greedily.

  .. math::
    r_1 = x, \quad v_j = \overline{|r_j|}, \quad
    r_{j + 1} = r_j - v_j \, \mathrm{sign}(r_j), \quad
    \text{levels } \sum_{j=1}^b \pm v_j

  Args:
    x: weights, any shape.
    levels: m = 2^b, int32 `[]`.
    room: how many centers to return.
  """
  number = jnp.arange(room)
  rest, centers = x, jnp.zeros(room, x.dtype)
  scale = jnp.asarray(2 * _SMALL, x.dtype)
  for bit in range((room - 1).bit_length()):
    # Where nothing is left to fit, levels still differ.
    scale = _or_small(_mean_size(rest), scale / 2)
    rest = rest - jnp.where(rest < 0, -scale, scale)
    side = jnp.where(number & (1 << bit), scale, -scale)
    centers += jnp.where(levels > 1 << bit, side, 0)
  return centers


def lsq_grid(levels: jax.Array, room: int) -> jax.Array:
  """Levels in units of their distance: -m/2 to m/2 - 1; -1 and 1 with two.

  Args:
    levels: m, int32 `[]`, or `[channels, 1]`.
    room: how many there is room for.
  """
  number = jnp.arange(room).reshape((1,) * (levels.ndim - 1) + (room,))
  return jnp.where(levels == 2, 2 * number - 1, number - levels // 2)


def lsq(x: jax.Array, levels: jax.Array, room: int) -> jax.Array:
  r"""The levels from which learned step sizes start.

  .. math:: s k, \quad -m / 2 \le k < m / 2, \quad
    s = 2 \, \overline{|x|} / \sqrt{m / 2 - 1}

  With one bit, plus and minus the mean of :math:`|x|`.

  Args:
    x: weights, any shape.
    levels: m, int32 `[]`.
    room: how many centers to return.
  """
  top = jnp.maximum(levels // 2 - 1, 1).astype(x.dtype)
  step = jnp.where(levels == 2, 1, 2 / jnp.sqrt(top)) * _mean_size(x)
  return _or_small(step, _SMALL) * lsq_grid(levels, room)


# Rules that need the weights alone.
FITTED = {"uniform": uniform, "lsbq": lsbq, "lsq": lsq}


def kmeans(x: jax.Array, levels: jax.Array, start: jax.Array) -> jax.Array:
  r"""Levels that make the squared error of the nearest level small.

  .. math:: \min_c \sum_i \min_k (x_i - c_k)^2

  Lloyd's algorithm: each level moves to the mean of the weights that are
  nearest to it, at most 50 times. A level that has none stays, except the first
  of them, which moves to the weight that is furthest from its own level: else
  weights of m different values might share a level, while others have none. The
  error never rises.

  Args:
    x: weights, any shape.
    levels: m, int32 `[]`.
    start: sorted centers to begin with, `[room]`.
  """
  x = x.ravel()
  room = start.shape[0]
  number = jnp.arange(room)
  valid = number < levels

  def improved(centers):
    borders = 0.5 * centers[:-1] + 0.5 * centers[1:]
    borders = jnp.where(valid[1:], borders, jnp.inf)
    index = jnp.searchsorted(borders, x)
    apart = x - centers[index]
    # Levels begin the same in every run, for little more time, once.
    total, count = level_sums.sum_by_level(
      [apart, jnp.ones_like(x)], index, room, deterministic=True
    )
    means = centers + total / jnp.maximum(count, 1)
    error = jnp.abs(x - means[index])
    furthest = jnp.argmax(error)
    spare = valid & (count == 0)
    moves = spare & (number == jnp.argmax(spare)) & (error[furthest] > 0)
    return jnp.where(moves, x[furthest], means)

  def ordered(centers):
    return jnp.sort(jnp.where(valid, centers, jnp.inf))

  def go_on(carry):
    turn, before, centers = carry
    return (turn < _ROUNDS) & jnp.any(before != centers)

  def body(carry):
    turn, _, centers = carry
    return turn + 1, centers, ordered(improved(centers))

  begin = ordered(start)
  first = jnp.int32(1), begin, ordered(improved(begin))
  return jax.lax.while_loop(go_on, body, first)[2]


def spread(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest entry, pulled apart if they (nearly) coincide."""
  low, high = jnp.min(x), jnp.max(x)
  size = jnp.maximum(jnp.abs(low), jnp.abs(high))
  margin = jnp.maximum(1e-2 * size, 1e-3)
  # 256 levels must be distinct floats: this leaves at least 6 ulp between them.
  constant = high / 2 - low / 2 <= 1e-4 * size
  return (
    jnp.where(constant, low - margin, low),
    jnp.where(constant, high + margin, high),
  )


def two_means(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Means of the negative and of the other entries, shape [2].

  If all entries have one sign, the tensor is split at its mean instead; if that
  does not separate them, it gets `low` and `high`. The levels always differ.
  """
  one_sign = (jnp.min(x) >= 0) | (jnp.max(x) < 0)
  below = x < jnp.where(one_sign, jnp.mean(x), 0.0)
  count = jnp.sum(below)

  def mean(mask, count):
    return jnp.sum(jnp.where(mask, x / jnp.maximum(count, 1), 0.0))

  means = jnp.stack([mean(below, count), mean(~below, x.size - count)])
  split = (count > 0) & (count < x.size) & (means[0] < means[1])
  return jnp.where(split, means, jnp.stack([low, high]))
