"""Codebooks: the levels to which the weights of one tensor are quantized.

A codebook is data, not structure: the number of levels is an array, so that
learners of different precision stack into one pytree, run in one compiled
program, and change their precision without a new compilation.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (section 2).
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

FULL_PRECISION = 32
MAX_BITS = 8
SHARPNESS_UNITS = ("gap", "absolute")

# Below this number of levels the plain sum over all sigmoids is cheaper than
# looking up the levels around each weight.
_DENSE_LEVELS = 4
# Levels on either side of a weight that every windowed sum includes.
_WINDOW = 2
# Levels told apart by plain comparisons before a binary search takes over.
_COARSE = 16
# What the levels outside the window may add to a weight, in mean gaps.
_WINDOW_ERROR = 5e-4
# Gaps are floored here, so that coinciding levels give finite steepness.
_MIN_GAP = 1e-8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook:
  """The levels of one tensor.

  Attributes:
    centers: float, sorted, `[max_levels]`; with channel granularity
      `[channels, max_levels]`. Entries from `levels` on are padding.
    levels: int32 number of valid centers, `[]` or `[channels]`; 0 means full
      precision, where every operation is the identity.
  """

  centers: jax.Array
  levels: jax.Array

  @property
  def max_levels(self) -> int:
    return self.centers.shape[-1]


def check_bits(bits: Any, field: str = "bits") -> None:
  """Raises a ValueError unless every entry is 1 to 8, or 32."""
  for value in np.ravel(bits).tolist():
    if value not in (*range(1, MAX_BITS + 1), FULL_PRECISION):
      raise ValueError(
        f"{field}={value}: must be from 1 to {MAX_BITS}, or "
        f"{FULL_PRECISION} for full precision"
      )


def max_levels_for(bits: Any) -> int:
  """The `max_levels` that holds every precision in `bits`."""
  check_bits(bits)
  quantized = [b for b in np.ravel(bits).tolist() if b != FULL_PRECISION]
  return 2 ** int(max(quantized, default=1))


def _is_traced(x: Any) -> bool:
  return isinstance(x, Tracer)


def _channelwise(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Maps `fn(x, codebook, ...)` over the last axis of x where needed."""

  @functools.wraps(fn)
  def wrapped(x, codebook, *args, **kwargs):
    per_tensor = functools.partial(fn, **kwargs)
    if codebook.centers.ndim == 1:
      return per_tensor(x, codebook, *args)
    axes = (-1, 0) + (None,) * len(args)
    return jax.vmap(per_tensor, in_axes=axes, out_axes=-1)(x, codebook, *args)

  return wrapped


def valid(codebook: Codebook) -> jax.Array:
  """Which entries of `centers` are levels, bool, of the shape of centers."""
  return jnp.arange(codebook.max_levels) < codebook.levels[..., None]


def view_centers(codebook: Codebook) -> jax.Array:
  """Centers with the padding replaced by the last valid level.

  This is how quantizers see a codebook. The transpose folds whatever gradient
  reaches the padding onto the last valid level.
  """
  # Selected by sums and masks, since under vmap a lookup of two entries
  # becomes a gather that crashes XLA on CPU (seen with jaxlib 0.10.2).
  is_last = jnp.arange(codebook.max_levels) == codebook.levels[..., None] - 1
  last = jnp.sum(jnp.where(is_last, codebook.centers, 0), -1, keepdims=True)
  return jnp.where(valid(codebook), codebook.centers, last)


def set_centers(codebook: Codebook, centers: jax.Array) -> Codebook:
  """Replaces the centers and restores the order and the padding.

  Args:
    codebook: the codebook whose levels count.
    centers: new centers, in any order, of the shape of `codebook.centers`.

  Returns:
    The codebook with sorted centers; padding repeats the last valid level.
  """
  padded = jnp.where(valid(codebook), centers, jnp.inf)
  # A level that is NaN must not hide behind the padding.
  broken = jnp.any(jnp.isnan(padded), axis=-1, keepdims=True)
  ordered = jnp.where(broken, jnp.nan, jnp.sort(padded, axis=-1))
  refilled = view_centers(dataclasses.replace(codebook, centers=ordered))
  return dataclasses.replace(codebook, centers=refilled)


def _spread(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest entry, pulled apart if they (nearly) coincide."""
  low, high = jnp.min(x), jnp.max(x)
  size = jnp.maximum(jnp.abs(low), jnp.abs(high))
  margin = jnp.maximum(1e-2 * size, 1e-3)
  # 256 levels must be distinct floats: some 6 roundings apart at the least.
  constant = high / 2 - low / 2 <= 1e-4 * size
  return (
    jnp.where(constant, low - margin, low),
    jnp.where(constant, high + margin, high),
  )


def _two_means(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """Means of the negative and of the other entries, shape [2].

  A tensor of one sign is split at its mean instead, and one that no split
  separates gets `low` and `high`: two distinct levels in every case.
  """
  one_sign = (jnp.min(x) >= 0) | (jnp.max(x) < 0)
  below = x < jnp.where(one_sign, jnp.mean(x), 0.0)
  count = jnp.sum(below)

  def mean(mask, count):
    return jnp.sum(jnp.where(mask, x / jnp.maximum(count, 1), 0.0))

  means = jnp.stack([mean(below, count), mean(~below, x.size - count)])
  split = (count > 0) & (count < x.size) & (means[0] < means[1])
  return jnp.where(split, means, jnp.stack([low, high]))


def init_codebook(
  x: jax.Array,
  bits: int | jax.Array,
  max_levels: int | None = None,
  *,
  granularity: str = "tensor",
  outer_level: float | None = None,
) -> Codebook:
  r"""Chooses the initial levels of a tensor of weights.

  With one bit: the mean of the negative and the mean of the non-negative
  weights. With more: :math:`2^{bits}` points evenly from the smallest to the
  largest weight. A constant tensor gets levels around its value, one with a
  single sign is split at its mean.

  Args:
    x: weights, any shape.
    bits: 1 to 8, or 32 for full precision; may be a traced scalar.
    max_levels: length of the centers; at least `2**bits`, its default. Choose
      it for the largest precision that is to share a pytree with this one.
    granularity: "tensor" for one codebook, "channel" for one per entry of
      the last axis.
    outer_level: if given, levels run evenly from minus to plus this value
      whatever the weights are.

  Returns:
    A Codebook; with channel granularity its arrays lead with `[channels]`.

  Raises:
    ValueError: bits, max_levels or granularity out of range.
  """
  if granularity not in ("tensor", "channel"):
    raise ValueError(
      f"granularity={granularity!r}: must be 'tensor' or 'channel'"
    )
  if not _is_traced(bits):
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
      init_codebook, bits=bits, max_levels=max_levels, outer_level=outer_level
    )
    return jax.vmap(init, in_axes=-1)(x)

  x = jnp.asarray(x)
  bits = jnp.asarray(bits, jnp.int32)
  full = bits >= FULL_PRECISION
  levels = jnp.where(full, 0, 2 ** jnp.where(full, 0, bits))
  if outer_level is None:
    low, high = _spread(x)
  else:
    low, high = jnp.asarray(-outer_level), jnp.asarray(outer_level)
  top = jnp.maximum(levels - 1, 1)
  fraction = jnp.minimum(jnp.arange(max_levels), top) / top
  # Written as a mixture: high - low may overflow.
  centers = low * (1 - fraction) + high * fraction
  if outer_level is None:
    two = _two_means(x, low, high)
    second = jnp.arange(max_levels) > 0
    centers = jnp.where(levels == 2, jnp.where(second, two[1], two[0]), centers)
  centers = jnp.where(full, 0.0, centers).astype(x.dtype)
  return Codebook(centers, levels.astype(jnp.int32))


def _midpoints(codebook: Codebook) -> jax.Array:
  """Borders between the cells, [max_levels - 1], +inf from the last on."""
  centers = jax.lax.stop_gradient(view_centers(codebook))
  border = 0.5 * centers[:-1] + 0.5 * centers[1:]
  inner = jnp.arange(1, codebook.max_levels) < codebook.levels
  return jnp.where(inner, border, jnp.inf)


@_channelwise
def nearest(x: jax.Array, codebook: Codebook) -> jax.Array:
  """Index of the nearest level; the lower one at a tie.

  One pass over x: up to 16 levels by plain comparisons, which vectorize; more
  by comparisons with every `max_levels / 16`-th border and a binary search
  from there.

  Args:
    x: weights, any shape.
    codebook: the levels.

  Returns:
    int32 in `[0, levels)`, of the shape of x; 0 for full precision.
  """
  x = jax.lax.stop_gradient(x)
  border = _midpoints(codebook)
  stride = -(-codebook.max_levels // _COARSE)
  stride = 1 << (stride - 1).bit_length()
  index = jnp.zeros(x.shape, jnp.int32)
  for k in range(stride, codebook.max_levels, stride):
    index += (x > border[k - 1]).astype(jnp.int32)
  index *= stride
  padded = jnp.full(stride * _COARSE, jnp.inf, border.dtype)
  padded = padded.at[: border.shape[0]].set(border)
  while stride := stride // 2:
    at = padded.at[index + (stride - 1)].get(mode="promise_in_bounds")
    index += jnp.where(x > at, stride, 0)
  return index


@_channelwise
def look_up(index: jax.Array, codebook: Codebook) -> jax.Array:
  """The levels at the given indices, of the shape of `index`."""
  return codebook.centers.at[index].get(mode="promise_in_bounds")


def hard_quantize(x: jax.Array, codebook: Codebook) -> jax.Array:
  r"""Sends every weight to its nearest level, :math:`Q_c(x)`.

  .. math:: Q_c(x)_i = c_{k(i)}, \quad k(i) = \arg\min_k |x_i - c_k|

  Ties go to the lower level; NaN stays NaN. No gradient reaches x; the
  gradient of a level is the sum of the gradients of its weights. With full
  precision: x.

  Args:
    x: weights, any shape.
    codebook: the levels.

  Returns:
    An array of the shape of x with at most `levels` distinct values.
  """
  level = look_up(nearest(x, codebook), codebook)
  quantized = (codebook.levels > 0) & ~jnp.isnan(x)
  return jnp.where(quantized, level.astype(x.dtype), x)


def check_sharpness(sharpness: Any, unit: str) -> None:
  """Raises a ValueError unless the two make sense."""
  if unit not in SHARPNESS_UNITS:
    raise ValueError(
      f"sharpness_unit={unit!r}: must be one of {', '.join(SHARPNESS_UNITS)}"
    )
  if not _is_traced(sharpness) and not np.all(np.asarray(sharpness) > 0):
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
  centers = jax.lax.stop_gradient(view_centers(codebook))
  count = jnp.maximum(codebook.levels - 1, 1)
  return jnp.maximum(centers[-1] / count - centers[0] / count, _MIN_GAP)


def _dense(x: jax.Array, codebook: Codebook, slope: jax.Array) -> jax.Array:
  """The sum over all levels, as the definition says."""
  centers = view_centers(codebook)
  soft = jnp.zeros_like(x) + centers[0]
  for low, high in zip(centers[:-1], centers[1:], strict=True):
    soft += (high - low) * jax.nn.sigmoid(slope * (x - (low + high) / 2))
  return soft


def _window_width(codebook: Codebook, slope: jax.Array) -> jax.Array:
  r"""How many levels on either side of a weight its sum must include.

  Cell j, from :math:`c_j` to :math:`c_{j+1}`, adds at most its integral of
  :math:`e^{-P u}` over the distance u (Jensen), so all cells beyond distance
  D add at most :math:`e^{-P D} / P`. The window grows until D suffices for
  the value and for the derivative; with evenly spaced levels and the default
  sharpness it never does.
  """
  centers = jax.lax.stop_gradient(view_centers(codebook))
  gap = _mean_gap(codebook)
  distance = -jnp.log(_WINDOW_ERROR * jnp.minimum(slope * gap, 1.0)) / slope
  index = jnp.arange(codebook.max_levels)
  top = codebook.levels - 1
  below = (centers[jnp.maximum(index - 1, 0)] + centers) / 2
  above = (centers[jnp.minimum(index + 1, top)] + centers) / 2

  def too_narrow(width):
    left = below - centers[jnp.maximum(index - width, 0)]
    right = centers[jnp.minimum(index + width, top)] - above
    cut_left = (left < distance) & (index - width >= 1) & (index <= top)
    cut_right = (right < distance) & (index + width < top)
    return jnp.any(cut_left | cut_right)

  start = jnp.int32(_WINDOW)
  return jax.lax.while_loop(too_narrow, lambda width: width + 1, start)


def _pair(x, index, centers, top, slope, offset):
  """The two cells `offset` away from each weight: (gap, sigmoid) each.

  The right-hand sigmoid is the share of its gap that the weight has climbed,
  the left-hand one the share that it still lacks: both are small far away.
  """

  def at(k):
    k = jnp.clip(k, 0, top)
    return centers.at[k].get(mode="promise_in_bounds")

  near, far = at(index + (offset - 1)), at(index + offset)
  right = far - near, jax.nn.sigmoid(slope * (x - (near + far) / 2))
  near, far = at(index - (offset - 1)), at(index - offset)
  left = near - far, jax.nn.sigmoid(slope * ((near + far) / 2 - x))
  return right, left


@jax.custom_vjp
def _windowed(x, centers, index, top, slope, width):
  """The soft quantizer from the `width` levels on either side of a weight.

  c_b + sum over w of (gap * sigmoid on the right - gap * sigmoid on the left)
  where b is the nearest level: the definition, regrouped around b.
  """
  return _windowed_fwd(x, centers, index, top, slope, width)[0]


def _windowed_fwd(x, centers, index, top, slope, width):
  def add(offset, sums):
    value, derivative = sums
    (gap_r, right), (gap_l, left) = _pair(x, index, centers, top, slope, offset)
    value += gap_r * right - gap_l * left
    derivative += slope * gap_r * right * (1 - right)
    derivative += slope * gap_l * left * (1 - left)
    return value, derivative

  sums = (
    centers.at[index].get(mode="promise_in_bounds"),
    jnp.zeros_like(x),
  )
  for offset in range(1, _WINDOW + 1):
    sums = add(offset, sums)
  value, derivative = jax.lax.fori_loop(_WINDOW + 1, width + 1, add, sums)
  return value, (x, centers, index, top, slope, width, derivative)


def _windowed_bwd(residuals, cotangent):
  x, centers, index, top, slope, width, derivative = residuals

  def shares(offset):
    """d value / d (right near, right far, left near, left far) levels."""
    (gap_r, right), (gap_l, left) = _pair(x, index, centers, top, slope, offset)
    bend_r = slope / 2 * gap_r * right * (1 - right)
    bend_l = slope / 2 * gap_l * left * (1 - left)
    return (-right - bend_r, right - bend_r, -left - bend_l, left - bend_l)

  # One scatter carries the whole window of a weight, as a row.
  rows = [jnp.zeros_like(x) for _ in range(2 * _WINDOW + 1)]
  rows[_WINDOW] = jnp.ones_like(x)
  for w in range(1, _WINDOW + 1):
    right_near, right_far, left_near, left_far = shares(w)
    rows[_WINDOW + w - 1] += right_near
    rows[_WINDOW + w] += right_far
    rows[_WINDOW - w + 1] += left_near
    rows[_WINDOW - w] += left_far
  rows = jnp.stack(rows, axis=-1) * cotangent[..., None]
  levels = centers.shape[0]
  table = jnp.zeros((levels, 2 * _WINDOW + 1), x.dtype)
  table = table.at[index].add(rows, mode="promise_in_bounds")
  target = jnp.arange(levels)[:, None] + jnp.arange(-_WINDOW, _WINDOW + 1)
  gradient = jnp.zeros_like(centers)
  gradient = gradient.at[jnp.clip(target, 0, top)].add(table)

  def add(offset, gradient):
    steps = (offset - 1, offset, 1 - offset, -offset)
    for step, share in zip(steps, shares(offset), strict=True):
      k = jnp.clip(index + step, 0, top)
      gradient = gradient.at[k].add(share * cotangent)
    return gradient

  gradient = jax.lax.fori_loop(_WINDOW + 1, width + 1, add, gradient)
  slope_gradient = jnp.zeros_like(slope)
  return cotangent * derivative, gradient, None, None, slope_gradient, None


_windowed.defvjp(_windowed_fwd, _windowed_bwd)


@_channelwise
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
  if codebook.max_levels <= _DENSE_LEVELS:
    soft = _dense(x, codebook, slope)
  else:
    soft = _windowed(
      x,
      codebook.centers,
      nearest(x, codebook),
      jnp.maximum(codebook.levels - 1, 0),
      slope.astype(x.dtype),
      _window_width(codebook, slope),
    )
  return jnp.where(codebook.levels > 0, soft.astype(x.dtype), x)


# ---------------------------------------------------------------------------
# Trees: a tree of codebooks mirrors the tree of parameters, with
# optax.MaskedNode() where a tensor is not quantized.
# ---------------------------------------------------------------------------


def is_codebook(node: Any) -> bool:
  """Whether a node is a leaf of a tree of codebooks."""
  return isinstance(node, (Codebook, optax.MaskedNode))


def map_codebooks(
  fn: Callable[..., Any],
  codebooks: Any,
  *trees: Any,
  otherwise: Callable[..., Any] = lambda *_: optax.MaskedNode(),
) -> Any:
  """Maps `fn(codebook, *leaves)` over a tree of codebooks.

  Args:
    fn: what to do where there is a codebook.
    codebooks: a tree of codebooks.
    *trees: trees that have `codebooks` as a prefix.
    otherwise: what to do, given the leaves, where there is none.
  """

  def visit(codebook, *leaves):
    chosen = fn if isinstance(codebook, Codebook) else otherwise
    args = (codebook, *leaves) if chosen is fn else leaves
    return chosen(*args)

  return jax.tree.map(visit, codebooks, *trees, is_leaf=is_codebook)


def codebook_leaves(codebooks: Any) -> list[Codebook]:
  """The codebooks of a tree; empty if it is statically full precision."""
  leaves = jax.tree.leaves(codebooks, is_leaf=is_codebook)
  return [leaf for leaf in leaves if isinstance(leaf, Codebook)]


def is_quantized(codebooks: Any) -> jax.Array:
  """Whether any tensor has levels, a bool scalar that may be traced."""
  leaves = codebook_leaves(codebooks)
  if not leaves:
    return jnp.asarray(False)
  return jnp.any(jnp.stack([jnp.any(c.levels > 0) for c in leaves]))


def path_name(path: Any) -> str:
  """A parameter's path as text, such as `hidden_1/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def init_codebooks(
  params: Any,
  predicate: Callable[[str], bool],
  bits: int | jax.Array | Mapping[str, int],
  max_levels: int | None = None,
  *,
  granularity: str = "tensor",
  outer_level: float | None = None,
) -> Any:
  """Codebooks for all parameters whose path the predicate accepts.

  Args:
    params: a tree of parameters.
    predicate: takes a path such as `hidden_1/kernel`.
    bits: as in `init_codebook`; or a mapping from path patterns (as of
      `fnmatch`) to bits, of which the first that matches counts.
    max_levels: as in `init_codebook`, common to all tensors; by default what
      the largest of `bits` needs.
    granularity: as in `init_codebook`.
    outer_level: as in `init_codebook`.

  Returns:
    A tree of codebooks, `optax.MaskedNode()` where the predicate says no.

  Raises:
    ValueError: no path is accepted, a path matches no pattern, or as in
      `init_codebook`.
  """
  if max_levels is None and not _is_traced(bits):
    each = list(bits.values()) if isinstance(bits, Mapping) else bits
    max_levels = max_levels_for(each)

  def bits_of(name):
    if not isinstance(bits, Mapping):
      return bits
    for pattern, value in bits.items():
      if fnmatch.fnmatch(name, pattern):
        return value
    raise ValueError(
      f"bits={dict(bits)}: no pattern matches the quantized {name!r}"
    )

  names = []

  def init(path, x):
    name = path_name(path)
    names.append(name)
    if not predicate(name):
      return optax.MaskedNode()
    return init_codebook(
      x,
      bits_of(name),
      max_levels,
      granularity=granularity,
      outer_level=outer_level,
    )

  codebooks = jax.tree_util.tree_map_with_path(init, params)
  if not codebook_leaves(codebooks):
    raise ValueError(
      f"predicate: accepts none of the parameters {names}; at least one "
      "must be quantized"
    )
  return codebooks


def full_precision(params: Any) -> Any:
  """A tree of codebooks that is statically empty: nothing is quantized."""
  return jax.tree.map(lambda _: optax.MaskedNode(), params)


def hard_quantize_tree(params: Any, codebooks: Any) -> Any:
  """`hard_quantize` of every tensor that has a codebook."""
  return map_codebooks(
    lambda codebook, x: hard_quantize(x, codebook),
    codebooks,
    params,
    otherwise=lambda x: x,
  )


def soft_quantize_tree(
  params: Any,
  codebooks: Any,
  sharpness: float | jax.Array = 10.0,
  *,
  unit: str = "gap",
) -> Any:
  """`soft_quantize` of every tensor that has a codebook."""
  return map_codebooks(
    lambda codebook, x: soft_quantize(x, codebook, sharpness, unit=unit),
    codebooks,
    params,
    otherwise=lambda x: x,
  )


def get_centers(codebooks: Any) -> Any:
  """The centers of every codebook: what an optimizer of levels updates."""
  return map_codebooks(lambda codebook: codebook.centers, codebooks)


def with_centers(codebooks: Any, centers: Any) -> Any:
  """The same codebooks with other centers, as they are: for differentiation.

  After an optimizer's update use `set_centers`, which restores their order.
  """
  return map_codebooks(
    lambda codebook, c: dataclasses.replace(codebook, centers=c),
    codebooks,
    centers,
  )


def set_centers_tree(codebooks: Any, centers: Any) -> Any:
  """`set_centers` of every codebook."""
  return map_codebooks(set_centers, codebooks, centers)
