"""Codebooks: the levels to which the weights of one tensor are quantized.

A codebook is data, not structure: the number of levels is an array, so that
learners of different precision stack into one pytree, run in one compiled
program, and change their precision without a new compilation.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (section 2).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from quped_jax import checks
from quped_jax.quantization import level_rules, level_sums

FULL_PRECISION = 32
MAX_BITS = 8
GRANULARITIES = ("tensor", "channel")
# The smallest gap, so that coinciding levels give a finite steepness.
_MIN_GAP = 1e-8


def _static(default: Any) -> Any:
  """A field that is part of a program, and no array."""
  metadata = {"static": True}
  return dataclasses.field(default=default, kw_only=True, metadata=metadata)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook:
  """The levels of one tensor.

  Attributes:
    centers: float, sorted, `[max_levels]`; with channel granularity
      `[channels, max_levels]`. Entries from `levels` on are padding.
    levels: int32 number of valid centers, `[]` or `[channels]`; 0 means full
      precision, where every operation is the identity.
    most: static: no learner of the program has more levels than that, though
      there may be room for more; None if all may be in use. See `in_room`.
    mixed: static: whether learners of the program differ in how many levels
      they have, so that it may branch (`levels_in_use`).

  Examples:
    `init_codebook` fits one to weights. By hand, of two levels, with room for
    four:

    >>> codebook = qj.Codebook(jnp.array([-1.0, 1.0, 1.0, 1.0]), jnp.int32(2))
    >>> codebook.max_levels
    4
  """

  centers: jax.Array
  levels: jax.Array
  most: int | None = _static(None)
  mixed: bool = _static(False)

  @property
  def max_levels(self) -> int:
    return self.centers.shape[-1]

  def in_room(self) -> Codebook:
    """The codebook without room for more levels than `most`."""
    if self.most is None:
      return self
    centers = self.centers[..., : self.most]
    return dataclasses.replace(self, centers=centers, most=None)


def check_bits(bits: Any, field: str = "bits") -> None:
  """Raises a ValueError unless every entry is 1 to 8, or 32."""
  for value in np.ravel(bits).tolist():
    if value not in (*range(1, MAX_BITS + 1), FULL_PRECISION):
      raise ValueError(
        f"{field}={value}: must be from 1 to {MAX_BITS}, or "
        f"{FULL_PRECISION} for full precision"
      )


def describe_bits(bits: Sequence[int], between: str = ", ") -> str:
  """Precisions in words: "1 bit", "32 bits", "1, 2, 32 bits"."""
  unit = "bit" if tuple(bits) == (1,) else "bits"
  return f"{between.join(map(str, bits))} {unit}"


def max_levels_for(bits: Any) -> int:
  """The smallest `max_levels` that suffices for every entry of `bits`."""
  check_bits(bits)
  quantized = [b for b in np.ravel(bits).tolist() if b != FULL_PRECISION]
  return 2 ** int(max(quantized, default=1))


def is_traced(x: Any) -> bool:
  """Whether a value is known only when the program runs."""
  return isinstance(x, Tracer)


def channelwise(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Maps `fn(x, codebook, ...)` over the last axis of x, if per channel."""

  @functools.wraps(fn)
  def wrapped(x, codebook, *args, **kwargs):
    per_tensor = functools.partial(fn, **kwargs)
    if codebook.centers.ndim == 1:
      return per_tensor(x, codebook, *args)
    axes = (-1, 0) + (None,) * len(args)
    return jax.vmap(per_tensor, in_axes=axes, out_axes=-1)(x, codebook, *args)

  return wrapped


def _numbers(codebook: Codebook) -> jax.Array:
  """The number of each entry of `centers`, from 0: int32, of their shape."""
  shape = codebook.centers.shape
  return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def valid(codebook: Codebook) -> jax.Array:
  """Which entries of `centers` are levels: bool, of the shape of `centers`."""
  return _numbers(codebook) < codebook.levels[..., None]


def view_centers(codebook: Codebook) -> jax.Array:
  """Centers with the padding replaced by the last valid level.

  This is how quantizers see a codebook. In the backward pass, any gradient of
  the padding is added to that of the last valid level.
  """
  # Selected by masks and sums, since under vmap a lookup of two entries
  # becomes a gather that crashes XLA on CPU (seen with jaxlib 0.10.2).
  is_last = _numbers(codebook) == codebook.levels[..., None] - 1
  last = jnp.sum(jnp.where(is_last, codebook.centers, 0), -1, keepdims=True)
  return jnp.where(valid(codebook), codebook.centers, last)


def mean_gap(codebook: Codebook) -> jax.Array:
  """Mean distance between neighbouring levels, without gradient, never 0."""
  centers = jax.lax.stop_gradient(view_centers(codebook))
  count = jnp.maximum(codebook.levels - 1, 1)
  return jnp.maximum(centers[-1] / count - centers[0] / count, _MIN_GAP)


def set_centers(codebook: Codebook, centers: jax.Array) -> Codebook:
  """Replaces the centers and restores the order and the padding.

  Args:
    codebook: the codebook, which keeps its number of levels.
    centers: new centers, in any order, of the shape of `codebook.centers`.

  Returns:
    The codebook with sorted centers; padding repeats the last valid level.

  Raises:
    AssertionError: centers of another shape.

  Examples:
    >>> codebook = qj.Codebook(jnp.array([-1.0, 1.0]), jnp.int32(2))
    >>> print(qj.set_centers(codebook, jnp.array([0.9, -0.7])).centers)
    [-0.7  0.9]
  """
  # Other shapes would be broadcast, and one level would count many times.
  chex.assert_equal_shape([centers, codebook.centers])
  padded = jnp.where(valid(codebook), centers, jnp.inf)
  # A level that is NaN would be sorted behind the padding, and go unnoticed.
  broken = jnp.any(jnp.isnan(padded), axis=-1, keepdims=True)
  ordered = jnp.where(broken, jnp.nan, jnp.sort(padded, axis=-1))
  refilled = view_centers(dataclasses.replace(codebook, centers=ordered))
  return dataclasses.replace(codebook, centers=refilled)


def init_codebook(
  x: jax.Array,
  bits: int | jax.Array,
  max_levels: int | None = None,
  *,
  granularity: str = "tensor",
  outer_level: float | None = None,
  initial_levels: str = "range",
) -> Codebook:
  r"""Chooses the initial levels of a tensor of weights.

  By the rule "range", with one bit: the mean of the negative and the mean of
  the non-negative weights; if all have the same sign, they are split at their
  mean instead. With more: :math:`2^{bits}` points evenly spaced from the
  smallest to the largest weight. A constant tensor gets levels around its
  value. The other rules are described in `level_rules`.

  Args:
    x: weights, any shape.
    bits: 1 to 8, or 32 for full precision; may be a traced scalar.
    max_levels: length of the centers; at least `2**bits`, its default. Choose
      it for the largest precision that is to share a pytree with this one.
    granularity: "tensor" for one codebook, "channel" for one per entry of
      the last axis.
    outer_level: if given, levels are evenly spaced from minus to plus this
      value, whatever the weights are; with the rule "range" alone.
    initial_levels: the rule: "range", "uniform", "lsbq", "lsq" or "kmeans".

  Returns:
    A Codebook; with channel granularity its arrays have a leading axis
    `[channels]`.

  Raises:
    ValueError: bits, max_levels, granularity or rule out of range.

  Examples:
    >>> weights = jnp.array([-1.0, -0.5, 0.5, 1.0])
    >>> print(qj.init_codebook(weights, bits=1).centers)
    [-0.75  0.75]
    >>> qj.init_codebook(weights, bits=2).levels
    Array(4, dtype=int32)
    >>> qj.init_codebook(weights.reshape(2, 2), 1, granularity="channel").levels
    Array([2, 2], dtype=int32)
  """
  checks.choice("granularity", granularity, GRANULARITIES)
  level_rules.check(initial_levels, outer_level)
  if not is_traced(bits):
    check_bits(bits)
    needed = max_levels_for(bits)
    max_levels = needed if max_levels is None else max_levels
    if max_levels < needed:
      raise ValueError(
        f"max_levels={max_levels}: must be at least {needed} for bits={bits}"
      )
  elif max_levels is None:
    raise ValueError("max_levels=None: must be given when bits is traced")
  if granularity == "channel":
    init = functools.partial(
      init_codebook,
      bits=bits,
      max_levels=max_levels,
      outer_level=outer_level,
      initial_levels=initial_levels,
    )
    return jax.vmap(init, in_axes=-1)(x)

  x = jnp.asarray(x)
  bits = jnp.asarray(bits, jnp.int32)
  full = bits >= FULL_PRECISION
  levels = jnp.where(full, 0, 2 ** jnp.where(full, 0, bits))
  if initial_levels in level_rules.FITTED:
    room = jnp.zeros(max_levels, x.dtype)
    return refit(x, Codebook(room, levels.astype(jnp.int32)), initial_levels)
  if outer_level is None:
    low, high = level_rules.spread(x)
  else:
    low, high = jnp.asarray(-outer_level), jnp.asarray(outer_level)
  top = jnp.maximum(levels - 1, 1)
  fraction = jnp.minimum(jnp.arange(max_levels), top) / top
  # Written as a mixture: high - low may overflow.
  centers = low * (1 - fraction) + high * fraction
  if initial_levels == "kmeans":
    made = Codebook(jnp.zeros_like(centers), levels.astype(jnp.int32))
    return set_centers(made, level_rules.kmeans(x, levels, centers))
  if outer_level is None:
    two = level_rules.two_means(x, low, high)
    second = jnp.arange(max_levels) > 0
    centers = jnp.where(levels == 2, jnp.where(second, two[1], two[0]), centers)
  centers = jnp.where(full, 0.0, centers).astype(x.dtype)
  return Codebook(centers, levels.astype(jnp.int32))


def refit(x: jax.Array, codebook: Codebook, rule: str) -> Codebook:
  """The codebook with levels that are fitted to the weights.

  Args:
    x: weights, any shape.
    codebook: says how many levels there are, and whether for each channel.
    rule: one of `level_rules.FITTED`.
  """
  fit = functools.partial(level_rules.FITTED[rule], room=codebook.max_levels)
  if codebook.centers.ndim > 1:
    fit = jax.vmap(fit, in_axes=(-1, 0))
  centers = fit(x, codebook.levels).astype(codebook.centers.dtype)
  return set_centers(codebook, centers)


def _midpoints(codebook: Codebook) -> jax.Array:
  """Borders between the cells, [max_levels - 1]; +inf after the last one."""
  centers = jax.lax.stop_gradient(view_centers(codebook))
  border = 0.5 * centers[:-1] + 0.5 * centers[1:]
  inner = jnp.arange(1, codebook.max_levels) < codebook.levels
  return jnp.where(inner, border, jnp.inf)


@channelwise
def nearest(x: jax.Array, codebook: Codebook) -> jax.Array:
  """Index of the nearest level; the lower one at a tie.

  One pass over x. Up to 16 levels take comparisons alone, which vectorize; more
  take comparisons with every `max_levels / 16`-th border, then a binary search
  between two of these. A few weights are compared with all borders at once.

  Args:
    x: weights, any shape.
    codebook: the levels.

  Returns:
    int32 in `[0, levels)`, of the shape of x; 0 for full precision.
  """
  x = jax.lax.stop_gradient(x)
  border = _midpoints(codebook)
  if level_sums.few(x, codebook.max_levels):
    borders = jnp.broadcast_to(border, (*x.shape, border.shape[0]))
    return jnp.sum(x[..., None] > borders, axis=-1, dtype=jnp.int32)
  stride = -(-codebook.max_levels // level_sums.COMPARED)
  stride = 1 << (stride - 1).bit_length()
  index = jnp.zeros(x.shape, jnp.int32)
  for k in range(stride, codebook.max_levels, stride):
    index += (x > border[k - 1]).astype(jnp.int32)
  index *= stride
  padded = jnp.full(stride * level_sums.COMPARED, jnp.inf, border.dtype)
  padded = padded.at[: border.shape[0]].set(border)
  while stride := stride // 2:
    at = padded.at[index + (stride - 1)].get(mode="promise_in_bounds")
    index += jnp.where(x > at, stride, 0)
  return index


@channelwise
def look_up(
  index: jax.Array, codebook: Codebook, *, deterministic: bool = False
) -> jax.Array:
  """The levels at the given indices.

  One pass over the indices. The gradient of a level is a sum over its weights
  (see `sum_by_level`).

  Args:
    index: integers in `[0, max_levels)`, any shape.
    codebook: the levels.
    deterministic: whether that gradient must be the same bit for bit in every
      run on an accelerator too, which takes longer with more than 16 levels.

  Returns:
    Levels, of the shape of `index`.
  """
  return level_sums.entries(codebook.centers, index, deterministic)


def hard_quantize(
  x: jax.Array, codebook: Codebook, *, deterministic: bool = False
) -> jax.Array:
  r"""Replaces every weight by its nearest level, :math:`Q_c(x)`.

  .. math:: Q_c(x)_i = c_{k(i)}, \quad k(i) = \arg\min_k |x_i - c_k|

  Ties go to the lower level; NaN stays NaN. No gradient reaches x; the
  gradient of a level is the sum of the gradients of its weights. In full
  precision x is returned.

  Args:
    x: weights, any shape.
    codebook: the levels.
    deterministic: see `look_up`.

  Returns:
    An array of the shape of x with at most `levels` distinct values.

  Examples:
    >>> codebook = qj.Codebook(jnp.array([-1.0, 1.0]), jnp.int32(2))
    >>> print(qj.hard_quantize(jnp.array([-3.0, -0.1, 0.2, 1.0]), codebook))
    [-1. -1.  1.  1.]
  """
  codebook = codebook.in_room()
  if not codebook.max_levels:
    return x
  index = nearest(x, codebook)
  level = look_up(index, codebook, deterministic=deterministic)
  quantized = jnp.broadcast_to(codebook.levels > 0, x.shape) & ~jnp.isnan(x)
  return jnp.where(quantized, level.astype(x.dtype), x)
