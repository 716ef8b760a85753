"""Proximal operators that pull weights to levels and levels to weights.

The regularizer is the distance of the weights x to their nearest levels c:

.. math::
  R(x, c) = \\sum_i \\min_k |x_i - c_k|  \\quad\\text{(l1)}, \\qquad
  R(x, c) = \\sum_i \\min_k (x_i - c_k)^2  \\quad\\text{(l2)}.

`threshold` is the step size times the strength of the regularizer.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (appendix A).
  Bai, Wang, Liberty, ProxQuant: Quantized Neural Networks via Proximal
  Operators, 2019.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import level_sums, levels_in_use
from quped_jax.quantization.codebook import Codebook
from quped_jax.typing import Number

NORMS = ("l1", "l2")
CENTER_METHODS = ("exact", "subgradient")

# The exact l1 prox divides a bracket into this many parts, then again the part
# with the minimiser, which it thus finds to 1e-4 of the first bracket.
_PARTS = 100
# From this threshold on, the l2 prox gives the level, or the mean, itself.
_WHOLE_SHARE = 1e20


def check_norm(norm: str) -> None:
  """Raises a ValueError unless there is such a norm."""
  checks.choice("norm", norm, NORMS)


def check_center_method(method: str) -> None:
  """Raises a ValueError unless there is such a method."""
  checks.choice("center_prox", method, CENTER_METHODS)


def weights_prox(
  y: jax.Array,
  codebook: Codebook,
  threshold: Number,
  norm: str = "l1",
) -> jax.Array:
  r"""Pulls weights towards their nearest levels.

  .. math:: \arg\min_x \tfrac12 \|x - y\|^2 + t R(x, c)

  With q the nearest level of y: for l1 :math:`q + \mathrm{sign}(y - q)
  \max(|y - q| - t, 0)`, for l2 :math:`(y + 2 t q) / (1 + 2 t)`.

  Args:
    y: weights after the optimizer's step, any shape.
    codebook: the levels c; with full precision the map is the identity.
    threshold: t, a non-negative scalar.
    norm: "l1" or "l2".

  Returns:
    The minimiser, of the shape of y.

  Raises:
    ValueError: unknown norm.

  Examples:
    >>> codebook = qj.Codebook(jnp.array([-1.0, 1.0]), jnp.int32(2))
    >>> y = jnp.array([-1.5, -1.0, 0.75, 1.25])
    >>> print(qj.weights_prox(y, codebook, 0.25))
    [-1.25 -1.    1.    1.  ]
    >>> print(qj.weights_prox(y, codebook, 0.5, "l2"))
    [-1.25  -1.     0.875  1.125]

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (appendix A).
  """
  check_norm(norm)
  codebook = codebook.in_room()
  if not codebook.max_levels:
    return y

  def pulled(y, codebook, threshold):
    level = codebook_lib.hard_quantize(y, codebook)
    if norm == "l1":
      distance = y - level
      shrunk = jnp.maximum(jnp.abs(distance) - threshold, 0)
      x = level + jnp.sign(distance) * shrunk
    else:
      share = _share(threshold)
      x = y * (1 - share) + level * share
    return jnp.where(codebook.levels > 0, x, y).astype(y.dtype)

  def few(y, codebook, threshold):
    return pulled(y, levels_in_use.small(codebook), threshold)

  branches = levels_in_use.Branches(
    none=lambda y, *_: y, few=few, many=pulled, otherwise=pulled
  )
  return levels_in_use.branch(
    codebook, y.size, branches, y, codebook, jnp.asarray(threshold)
  )


def _share(threshold, count=1) -> jax.Array:
  """2 t n / (1 + 2 t n), which is 1 where that would overflow."""
  weight = 2 * jnp.minimum(threshold, _WHOLE_SHARE) * count
  return weight / (1 + weight)


def centers_prox(
  mu: jax.Array,
  weights: jax.Array,
  codebook: Codebook,
  threshold: Number,
  norm: str = "l1",
  method: str = "exact",
  *,
  deterministic: bool = False,
) -> jax.Array:
  r"""Pulls levels towards the weights that they stand for.

  With :math:`S_k` the weights whose nearest level in `codebook` (the levels
  before the step) is k, held fixed, the exact map solves for each level

  .. math::
    \arg\min_v \tfrac12 (v - \mu_k)^2 + t \sum_{i \in S_k} |x_i - v|
    \quad\text{(l1)}, \qquad
    \arg\min_v \tfrac12 (v - \mu_k)^2 + t \sum_{i \in S_k} (x_i - v)^2
    \quad\text{(l2)}.

  Since the assignment is held fixed, this is the proximal map of an upper
  bound of R that touches it at the old levels. The l1 minimiser is found to
  1e-4 of the bracket from mu_k to mu_k + t (#above - #below), and exactly if no
  weight lies within that distance of it.

  Cost, in passes over the weights: l2 two, subgradient one, exact l1 two, or
  three if there are fewer than 10 000 weights per level. A pass looks up levels
  and sums by level, as `level_sums.sum_by_level` does; the counting passes of
  exact l1 scatter into counters. Nothing is sorted.

  Args:
    mu: levels after the optimizer's step, of the shape of the centers.
    weights: x, any shape.
    codebook: the levels before the step, by which weights are assigned.
    threshold: t, a non-negative scalar.
    norm: "l1" or "l2".
    method: "exact", or for l1 "subgradient": the explicit step
      :math:`\mu_k + t (\#\{x_i > c_k\} - \#\{x_i < c_k\})` from the old
      level c_k, which may overshoot the median of its weights.
    deterministic: whether the levels must be the same bit for bit in every run
      on an accelerator too, which takes longer with more than 16.

  Returns:
    New levels, of the shape of mu, not sorted. Padding, and in full precision
    every entry, is that of mu.

  Raises:
    ValueError: unknown norm or method.

  Examples:
    With a large threshold, each level goes to the median of its weights.

    >>> weights = jnp.array([-1.2, -1.0, -0.8, 0.9, 1.0, 1.4])
    >>> codebook = qj.Codebook(jnp.array([-2.0, 2.0]), jnp.int32(2))
    >>> moved = qj.centers_prox(codebook.centers, weights, codebook, 10.0)
    >>> print(jnp.round(moved, 2))
    [-1.  1.]

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (appendix A).
  """
  check_norm(norm)
  check_center_method(method)
  if codebook.centers.ndim > 1:

    def of_channel(m, x, c):
      return centers_prox(
        m, x, c, threshold, norm, method, deterministic=deterministic
      )

    return jax.vmap(of_channel, in_axes=(0, -1, 0))(mu, weights, codebook)
  codebook = codebook.in_room()
  room = codebook.max_levels
  if not room:
    return mu
  prox = functools.partial(
    _prox_of_levels, norm=norm, method=method, deterministic=deterministic
  )

  def few(mu, weights, codebook, threshold):
    moved = prox(
      mu[: levels_in_use.FEW],
      weights,
      levels_in_use.small(codebook),
      threshold,
    )
    return jnp.concatenate([moved, mu[levels_in_use.FEW :]])

  moved = levels_in_use.branch(
    codebook,
    weights.size,
    levels_in_use.Branches(
      none=lambda mu, *_: mu, few=few, many=prox, otherwise=prox
    ),
    mu[:room],
    weights.ravel(),
    codebook,
    jnp.asarray(threshold),
  )
  return jnp.concatenate([moved, mu[room:]])


def _prox_of_levels(
  mu, weights, codebook, threshold, *, norm, method, deterministic
):
  """`centers_prox` of one tensor or channel, all of whose levels count."""
  index = codebook_lib.nearest(weights, codebook)
  levels = mu.shape[0]
  if norm == "l2":
    total, count = level_sums.sum_by_level(
      [weights, jnp.ones_like(weights)], index, levels, deterministic
    )
    share = _share(threshold, count)
    moved = mu * (1 - share) + total / jnp.maximum(count, 1) * share
  elif method == "subgradient":
    own: jax.Array = level_sums.entries(codebook.centers, index)
    side = jnp.sign(weights - own)
    (balance,) = level_sums.sum_by_level([side], index, levels, deterministic)
    moved = mu + threshold * balance
  else:
    moved = _exact_l1(mu, weights, index, threshold, deterministic)
  return jnp.where(codebook_lib.valid(codebook), moved, mu).astype(mu.dtype)


def _exact_l1(mu, weights, index, threshold, deterministic):
  """`_median_prox`, with as many counters as the platform can well fill."""
  # The second division needs a pass of its own only if counters for all of its
  # parts, in every part of the first, would outnumber the weights; or where
  # counters are copied, and so many would leave few copies.
  levels = mu.shape[0]
  fine = levels * _PARTS**2 <= weights.size
  prox = functools.partial(_median_prox, deterministic=deterministic)
  in_two_passes = functools.partial(prox, fine=False)
  if not fine:
    return in_two_passes(mu, weights, index, threshold)
  in_one = functools.partial(prox, fine=True)
  return jax.lax.platform_dependent(
    mu, weights, index, threshold, cpu=in_one, default=in_two_passes
  )


def _median_prox(mu, weights, index, threshold, *, fine, deterministic=False):
  r"""Root of the right-continuous, increasing function of each level

  .. math:: \phi(v) = v - \mu + t (n - 2 \#\{x_i > v\}),

  as inf{v: phi(v) >= 0}: the minimiser for l1.

  Args:
    mu: levels after the optimizer's step, `[levels]`.
    weights: x, `[weights]`.
    index: the level of each weight, likewise.
    threshold: t.
    fine: whether to divide the brackets in one pass, not in two.
    deterministic: see `level_sums.form`.

  Returns:
    The roots, `[levels]`.
  """
  levels = mu.shape[0]
  side = jnp.where(weights > level_sums.entries(mu, index), -1.0, 1.0)
  (balance,) = level_sums.sum_by_level([side], index, levels, deterministic)
  end = mu - threshold * balance.astype(mu.dtype)
  low, high = jnp.minimum(mu, end), jnp.maximum(mu, end)
  width = high - low
  counts = _slots(weights, index, low, width, _PARTS**2 if fine else _PARTS)
  count = jnp.sum(counts, axis=1)
  parts = counts[:, 1:-1].reshape(levels, _PARTS, -1)
  narrow = functools.partial(_narrow, mu, threshold, count)
  low, high, part, above = narrow(
    low, width, jnp.sum(parts, axis=2), counts[:, -1]
  )
  if fine:
    # Where rounding puts the minimiser at the upper end, the bracket is empty
    # and any part will do, but an index out of range would give NaN.
    part = jnp.minimum(part, _PARTS - 1)
    inside = jnp.take_along_axis(parts, part[:, None, None], axis=1)[:, 0]
    above_high = above - jnp.sum(inside, axis=1)
  else:
    counts = _slots(weights, index, low, high - low, _PARTS)
    inside, above_high = counts[:, 1:-1], counts[:, -1]
  low, high, _, above = narrow(low, high - low, inside, above_high)
  # With no weight inside the bracket, phi is linear there and this is exact.
  return jnp.clip(mu - _pull(threshold, above, count, mu.dtype), low, high)


def _slots(weights, index, low, width, parts):
  """How many weights of each level lie in each part of its bracket.

  Args:
    weights: x, `[weights]`.
    index: the level of each weight, likewise.
    low: lower ends of the brackets, `[levels]`.
    width: widths of the brackets, `[levels]`.
    parts: number of parts into which each is divided.

  Returns:
    float `[levels, parts + 2]`: weights up to `low`, in each part (which
    includes its upper edge), and above. Exact below 2**24.
  """
  levels, entries = low.shape[0], level_sums.entries
  scale = parts / jnp.maximum(width, parts * jnp.finfo(width.dtype).tiny)
  share = (weights - entries(low, index)) * entries(scale, index)
  slot = jnp.clip(jnp.ceil(share), 0, parts + 1).astype(jnp.int32)
  counts = level_sums.count_by_bin(
    index * (parts + 2) + slot, levels * (parts + 2)
  )
  return counts.reshape(levels, parts + 2).astype(jnp.float32)


def _pull(threshold, above, count, dtype):
  """t (n - 2 #above), by which weights pull a level down."""
  return threshold * (count - 2 * above).astype(dtype)


def _narrow(mu, threshold, count, low, width, inside, above):
  """The part of the bracket in which phi changes its sign.

  Args:
    mu: levels after the optimizer's step, `[levels]`.
    threshold: t.
    count: how many weights a level has, `[levels]`.
    low: lower end of the bracket, `[levels]`.
    width: width of the bracket.
    inside: how many weights lie in each part, `[levels, parts]`.
    above: how many weights lie above the bracket.

  Returns:
    (low, high, the part's number, how many weights lie above low).
  """

  def pick(table, column):
    return jnp.take_along_axis(table, column[:, None], axis=1)[:, 0]

  # A product with ones below the diagonal sums the parts above each edge in
  # one operation.
  later = jnp.tri(_PARTS, _PARTS + 1, dtype=jnp.float32)
  above = above[:, None] + jnp.dot(
    inside, later, precision=jax.lax.Precision.HIGHEST
  )
  fraction = jnp.arange(_PARTS + 1, dtype=mu.dtype) / _PARTS
  edges = low[:, None] + width[:, None] * fraction[None]
  pull = _pull(threshold, above, count[:, None], mu.dtype)
  phi = edges - mu[:, None] + pull
  # The first edge at which phi is not negative closes the bracket.
  first = jnp.sum(phi < 0, axis=1)
  left, right = jnp.maximum(first - 1, 0), jnp.minimum(first, _PARTS)
  return pick(edges, left), pick(edges, right), left, pick(above, left)
