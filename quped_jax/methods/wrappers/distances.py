r"""Averages of messages by how far they are from each other.

Of n messages d_1 ... d_n, of which at most f are false:

.. math::
  \text{krum:} \; d_{i^*}, \quad i^* = \arg\min_i s_i, \quad
    s_i = \sum_{j \in N_i} |d_i - d_j|^2, \qquad
  \text{geometric median:} \; \arg\min_v \sum_i |v - d_i|,

with N_i the n - f - 2 messages nearest to the i-th. Multi-Krum takes the mean
of the m messages with the lowest scores s_i; Bulyan chooses n - 2 f messages,
one after the other, each the Krum of those that are left, and takes the mean of
the n - 4 f values of each coordinate that are nearest to their median. The
geometric median is approximated by a few of Weiszfeld's steps, from the mean.

Distances go over all arrays of a message. From a message whose own length is
not finite they are infinite. Parts that belong to one precision are left out of
them, since clients of two precisions have nothing there to compare, and a
client that is believed for the rest could put there what it likes: of these
parts the server takes the median, over all clients of the precision. It takes
the median of everything in a round of fewer than 2 f + 3 messages (Bulyan: 4 f
+ 3), of which nothing is promised.

Where so few messages are left that n - f - 2 is not positive, as in Bulyan's
last choices, scores go by the nearest message alone. Then two messages that are
nearest to each other have the same score, and of them comes first the one that
is nearer to all others, so that the order of clients decides nothing.

References:
  Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries:
  Byzantine Tolerant Gradient Descent, 2017.
  El Mhamdi, Guerraoui, Rouault, The Hidden Vulnerability of Distributed
  Learning in Byzantium, 2018.
  Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, 2022.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.methods import by_precision
from quped_jax.methods.blocks import ranks

AGGREGATIONS = ("krum", "multi_krum", "bulyan", "geometric_median")

# Those of the authors' code; so is the smallest distance.
_WEISZFELD_STEPS = 4
_SMALLEST_DISTANCE = 1e-5

# Messages as matrices `[slots, entries]`, in float32, from near their middle.
Rows = Sequence[jax.Array]


def least_messages(aggregation: str, byzantine: int) -> int:
  """How many messages an average needs to tolerate so many false ones.

  Args:
    aggregation: one of `AGGREGATIONS`.
    byzantine: f.
  """
  if aggregation == "geometric_median":
    return 1
  return (4 if aggregation == "bulyan" else 2) * byzantine + 3


def _along(mask: jax.Array, x: jax.Array) -> jax.Array:
  """A value for each slot `[slots]`, to be broadcast to `x`."""
  return mask.reshape(-1, *(1,) * (x.ndim - 1))


def _mean(x: jax.Array, weights: jax.Array) -> jax.Array:
  """The weighted mean over slots; what has weight 0 may be anything."""
  share = _along(weights / jnp.maximum(jnp.sum(weights), 1e-30), x)
  terms = jnp.where(share > 0, share * x, 0.0)
  return jnp.sum(terms, axis=0).astype(x.dtype)


def _in_rows(
  leaves: Sequence[jax.Array], middle: Sequence[jax.Array], sent: jax.Array
) -> tuple[Rows, jax.Array]:
  """Messages from near their middle, and which of them have a length.

  Distances are computed from products, in which all that messages have in
  common would cancel.

  Args:
    leaves: arrays `[slots, ...]`.
    middle: arrays `[...]`.
    sent: bool `[slots]`.

  Returns:
    The rows, zero where a slot holds no message of finite length, and bool
    `[slots]`, where one does.
  """
  rows = [
    (x - m[None]).reshape(len(x), -1).astype(jnp.float32)
    for x, m in zip(leaves, middle, strict=True)
  ]
  squares = sum(jnp.sum(jnp.square(x), axis=1) for x in rows)
  finite = sent & jnp.isfinite(squares)
  return [jnp.where(finite[:, None], x, 0.0) for x in rows], finite


def squared_distances(rows: Rows, finite: jax.Array) -> jax.Array:
  """Squared distances between messages, float32 `[slots, slots]`.

  Args:
    rows: the messages.
    finite: bool `[slots]`; distances from others are infinite.
  """
  products = sum(
    jnp.dot(x, x.T, precision=jax.lax.Precision.HIGHEST) for x in rows
  )
  squares = jnp.diagonal(jnp.asarray(products))
  found = squares[:, None] + squares[None] - 2 * products
  pairs = finite[:, None] & finite[None]
  # By rounding it may be negative, or differ between the two directions.
  found = jnp.maximum(jnp.maximum(found, found.T), 0.0)
  return jnp.where(pairs, found, jnp.inf)


def nearest_to_others(
  distances: jax.Array, sent: jax.Array, byzantine: int, count: Any
) -> jax.Array:
  """The messages with the lowest scores, bool `[slots]`.

  Args:
    distances: squared, `[slots, slots]`.
    sent: bool `[slots]`, the messages that there are, n.
    byzantine: f.
    count: how many of them.
  """
  slots = jnp.arange(sent.shape[0])
  others = sent[None] & (slots[:, None] != slots[None])
  ranked = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
  neighbours = jnp.maximum(jnp.sum(sent) - byzantine - 2, 1)
  scores = jnp.sum(jnp.where(slots[None] < neighbours, ranked, 0.0), axis=1)
  totals = jnp.sum(jnp.where(jnp.isfinite(ranked), ranked, 0.0), axis=1)
  order = jnp.lexsort((totals, scores, ~sent))
  return sent & (jnp.argsort(order) < count)


def _of_enough(
  average: Callable[..., Sequence[jax.Array]],
  messages: Any,
  sent: jax.Array,
  least: int,
) -> Any:
  """An average of messages, or their median if there are too few.

  Args:
    average: `(leaves, rows, finite) -> arrays [...]`, of what is not averaged
      by precision; see `_in_rows`.
    messages: tree of arrays `[slots, ...]`, perhaps with ByPrecision of single
      messages, of which it is the median in any case.
    sent: bool `[slots]`.
    least: how many messages are enough.
  """
  medians = ranks.median(messages, sent)
  if sent.shape[0] < least:
    return medians

  def plain(tree):
    parts = jax.tree.leaves(tree, is_leaf=by_precision.is_by_precision)
    return [x for x in parts if not by_precision.is_by_precision(x)]

  leaves = plain(messages)
  rows, finite = _in_rows(leaves, plain(medians), sent)
  found = iter(average(leaves, rows, finite))
  enough = jnp.sum(sent) >= least
  return by_precision.map_parts(
    lambda m: jnp.where(enough, next(found), m), lambda m: m, medians
  )


def multi_krum(
  messages: Any, sent: jax.Array, byzantine: int, kept: int = 0
) -> Any:
  """The mean of the messages with the lowest scores; Krum if it is one.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`.
    byzantine: f.
    kept: m, at most as many as there are; 0 for n - f - 2.

  Returns:
    Tree of arrays `[...]`.
  """

  def average(leaves, rows, finite):
    chosen = nearest_to_others(
      squared_distances(rows, finite),
      sent,
      byzantine,
      kept or jnp.sum(sent) - byzantine - 2,
    )
    return [_mean(x, chosen.astype(jnp.float32)) for x in leaves]

  least = least_messages("multi_krum", byzantine)
  return _of_enough(average, messages, sent, least)


def _chosen_in_turn(
  distances: jax.Array, sent: jax.Array, byzantine: int, count: Any
) -> jax.Array:
  """Slots that Krum chooses, without replacement, bool `[slots]`."""

  def choose(step, left):
    best = nearest_to_others(distances, left, byzantine, 1)
    return left & ~(best & (step < count))

  left = jax.lax.fori_loop(0, sent.shape[0], choose, sent)
  return sent & ~left


def _mean_near_median(x: jax.Array, sent: jax.Array, count: Any) -> jax.Array:
  """The mean of so many values of each coordinate, nearest to their median."""
  # In order, so that the order of clients decides no tie.
  ranked = jnp.sort(jnp.where(_along(sent, x), x, jnp.nan), axis=0)
  middle = ranks.median(x, sent)
  distances = jnp.abs(ranked - middle[None])
  order = jnp.argsort(distances, axis=0, stable=True)
  near = jnp.take_along_axis(ranked, order, axis=0)
  return _mean(near, (jnp.arange(x.shape[0]) < count).astype(jnp.float32))


def bulyan(messages: Any, sent: jax.Array, byzantine: int) -> Any:
  """The mean, around the median, of messages that Krum chooses in turn.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`.
    byzantine: f.

  Returns:
    Tree of arrays `[...]`.
  """
  count = jnp.sum(sent)

  def average(leaves, rows, finite):
    chosen = _chosen_in_turn(
      squared_distances(rows, finite), sent, byzantine, count - 2 * byzantine
    )
    near = count - 4 * byzantine
    return [_mean_near_median(x, chosen, near) for x in leaves]

  least = least_messages("bulyan", byzantine)
  return _of_enough(average, messages, sent, least)


def geometric_median(
  messages: Any, sent: jax.Array, steps: int = _WEISZFELD_STEPS
) -> Any:
  """The point whose distances from the messages have about the smallest sum.

  Args:
    messages: tree of arrays `[slots, ...]`.
    sent: bool `[slots]`.
    steps: Weiszfeld's steps, from the mean.

  Returns:
    Tree of arrays `[...]`.
  """

  def average(leaves, rows, finite):
    def step(_, weights):
      squares = sum(
        jnp.sum(jnp.square(x - _mean(x, weights)[None]), axis=1) for x in rows
      )
      distances = jnp.maximum(jnp.sqrt(squares), _SMALLEST_DISTANCE)
      return jnp.where(finite, 1 / distances, 0.0)

    begin = finite.astype(jnp.float32)
    weights = jax.lax.fori_loop(0, steps, step, begin)
    return [_mean(x, weights) for x in leaves]

  return _of_enough(average, messages, sent, 1)
