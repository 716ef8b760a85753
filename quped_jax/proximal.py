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

import jax
import jax.numpy as jnp

from quped_jax import codebook as codebook_lib
from quped_jax.codebook import Codebook

NORMS = ("l1", "l2")
CENTER_METHODS = ("exact", "subgradient")

# Each refining pass of the exact l1 prox divides every bracket into this many
# parts; two passes find the minimiser to 1e-4 of the first bracket.
_PARTS = 100
_PASSES = 2


def check_norm(norm: str) -> None:
  """Raises a ValueError unless there is such a norm."""
  if norm not in NORMS:
    raise ValueError(f"norm={norm!r}: must be one of {', '.join(NORMS)}")


def check_center_method(method: str) -> None:
  """Raises a ValueError unless there is such a method."""
  if method not in CENTER_METHODS:
    raise ValueError(
      f"center_prox={method!r}: must be one of {', '.join(CENTER_METHODS)}"
    )


def weights_prox(
  y: jax.Array,
  codebook: Codebook,
  threshold: float | jax.Array,
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
  """
  check_norm(norm)
  level = codebook_lib.hard_quantize(y, codebook)
  if norm == "l1":
    distance = y - level
    shrunk = jnp.maximum(jnp.abs(distance) - threshold, 0)
    x = level + jnp.sign(distance) * shrunk
  else:
    x = (y + 2 * threshold * level) / (1 + 2 * threshold)
  return jnp.where(codebook.levels > 0, x, y)


def centers_prox(
  mu: jax.Array,
  weights: jax.Array,
  codebook: Codebook,
  threshold: float | jax.Array,
  norm: str = "l1",
  method: str = "exact",
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
  bound of R that touches it at the old levels. l1 is found to 1e-4 of the
  bracket from mu_k to mu_k + t (#above - #below), exactly where no weight
  lies within that resolution of the minimiser.

  Cost, in passes over the weights: l2 one, subgradient one, exact l1 three,
  each a lookup and a scatter into counters; none sorts.

  Args:
    mu: levels after the optimizer's step, of the shape of the centers.
    weights: x, any shape.
    codebook: the levels before the step, by which weights are assigned.
    threshold: t, a non-negative scalar.
    norm: "l1" or "l2".
    method: "exact", or for l1 "subgradient": the explicit step
      :math:`\mu_k + t (\#\{x_i > c_k\} - \#\{x_i < c_k\})` from the old
      level c_k, which may overshoot the median of its weights.

  Returns:
    New levels, of the shape of mu, not sorted; entries that are padding, and
    all of them with full precision, are those of mu.

  Raises:
    ValueError: unknown norm or method.
  """
  check_norm(norm)
  check_center_method(method)
  if codebook.centers.ndim > 1:
    return jax.vmap(
      lambda m, x, c: centers_prox(m, x, c, threshold, norm, method),
      in_axes=(0, -1, 0),
    )(mu, weights, codebook)
  weights = weights.ravel()
  index = codebook_lib.nearest(weights, codebook)
  if norm == "l2":
    total, count = _sums(weights, index, mu.shape[0])
    moved = (mu + 2 * threshold * total) / (1 + 2 * threshold * count)
  elif method == "subgradient":
    side = jnp.sign(weights - _lookup(codebook.centers, index))
    balance, _ = _sums(side, index, mu.shape[0])
    moved = mu + threshold * balance
  else:
    moved = _median_prox(mu, weights, index, threshold)
  return jnp.where(codebook_lib.valid(codebook), moved, mu)


def _lookup(table: jax.Array, index: jax.Array) -> jax.Array:
  return table.at[index].get(mode="promise_in_bounds")


def _sums(values, index, levels):
  """Per level: the sum of the values, and their number (as values' dtype)."""
  zeros = jnp.zeros(levels, values.dtype)
  total = zeros.at[index].add(values, mode="promise_in_bounds")
  count = jnp.zeros(levels, jnp.int32).at[index].add(1)
  return total, count.astype(values.dtype)


def _median_prox(mu, weights, index, threshold):
  r"""Root of the right-continuous, increasing function of each level

  .. math:: \phi(v) = v - \mu + t (n - 2 \#\{x_i > v\}),

  as inf{v: phi(v) >= 0}: the minimiser for l1.
  """
  levels = mu.shape[0]

  def counters(slot, slots):
    """How many weights of each level are in each slot, [levels, slots]."""
    counts = jnp.zeros(levels * slots, jnp.int32)
    return counts.at[index * slots + slot].add(1).reshape(levels, slots)

  def exceeding(low, width):
    """Per level, #{x_i > v} at v = low + width * j / _PARTS, for all j."""
    safe = jnp.maximum(width, jnp.finfo(width.dtype).tiny)
    share = (weights - _lookup(low, index)) / _lookup(safe, index) * _PARTS
    slot = jnp.clip(jnp.ceil(share), 0, _PARTS + 1).astype(jnp.int32)
    # A product with ones below the diagonal sums the slots above each edge in
    # one operation; counts below 2**24 are exact in float32.
    later = jnp.tri(_PARTS + 2, _PARTS + 1, -1, dtype=jnp.float32)
    counts = counters(slot, _PARTS + 2).astype(jnp.float32)
    return jnp.dot(counts, later, precision=jax.lax.Precision.HIGHEST)

  def pull(above, count):
    return threshold * (count - 2 * above).astype(mu.dtype)

  def pick(table, column):
    return jnp.take_along_axis(table, column[:, None], axis=1)[:, 0]

  sides = counters((weights > _lookup(mu, index)).astype(jnp.int32), 2)
  count = jnp.sum(sides, axis=1).astype(jnp.float32)
  above_low = sides[:, 1].astype(jnp.float32)
  low = jnp.minimum(mu, mu - pull(above_low, count))
  high = jnp.maximum(mu, mu - pull(above_low, count))
  fraction = jnp.arange(_PARTS + 1, dtype=mu.dtype) / _PARTS
  for _ in range(_PASSES):
    width = high - low
    edges = low[:, None] + width[:, None] * fraction
    above = exceeding(low, width)
    phi = edges - mu[:, None] + pull(above, count[:, None])
    # The first edge at which phi is not negative closes the bracket.
    first = jnp.sum(phi < 0, axis=1)
    left, right = jnp.maximum(first - 1, 0), jnp.minimum(first, _PARTS)
    low, high = pick(edges, left), pick(edges, right)
    above_low = pick(above, left)
  # With no weight inside the bracket phi is linear there, and this exact.
  return jnp.clip(mu - pull(above_low, count), low, high)
