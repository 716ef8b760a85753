"""Parts of messages that the server averages by precision.

Most of what clients send is averaged over all of them. The batch-norm
statistics of a shared model's quantized form belong to one precision: a 1-bit
and a 4-bit form of the same weights have different ones. The server therefore
holds one set for each precision, and averages what it hears of each among the
clients that have this precision. A precision of which it hears nothing keeps
the set that it has; before it has heard of one, the statistics of the model
itself stand in.

A client receives and sends the set of its own precision alone. The server knows
every client's precision, so a message need not name it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OfPrecision:
  """A part of a download or a message that belongs to its client's precision.

  Attributes:
    value: tree of arrays `[...]`.
    precisions: how many precisions the server tells apart, 1 to this number of
      bits; static.
  """

  value: Any
  precisions: int = dataclasses.field(metadata={"static": True})


class ByPrecision(NamedTuple):
  """Such parts of many messages, summed by precision.

  Attributes:
    totals: weight times part, tree of arrays `[precisions, ...]`; first those
      of 1 bit, then those of 2 bits, and so on.
    weights: sums of the weights, float32 `[precisions]`.
  """

  totals: Any
  weights: Any


class Held(NamedTuple):
  """The sets that a server holds.

  Attributes:
    values: tree of arrays `[precisions, ...]`; first those of 1 bit, then those
      of 2 bits, and so on.
    heard: float32 `[precisions]`, in how many rounds each was heard of; where
      it is 0, the values mean nothing yet.
  """

  values: Any
  heard: Any


def is_of_precision(node: Any) -> bool:
  """Whether a node is an OfPrecision."""
  return isinstance(node, OfPrecision)


def is_by_precision(node: Any) -> bool:
  """Whether a node is a ByPrecision."""
  return isinstance(node, ByPrecision)


def begin(value: Any, precisions: int) -> Held:
  """What a server holds at first: it has heard of no precision.

  Args:
    value: tree of arrays `[...]`.
    precisions: how many precisions it tells apart.
  """
  values = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (precisions, *jnp.shape(x))), value
  )
  return Held(values, jnp.zeros(precisions, jnp.float32))


def known(held: Held, otherwise: Any) -> Any:
  """The sets that are in use.

  Args:
    held: what the server holds.
    otherwise: tree of arrays `[...]`, for a precision not heard of yet.

  Returns:
    Tree of arrays `[precisions, ...]`.
  """

  def one(x, y):
    heard = (held.heard > 0).reshape(-1, *(1,) * jnp.ndim(y))
    return jnp.where(heard, x, jnp.asarray(y)[None])

  return jax.tree.map(one, held.values, otherwise)


def take(held: Held, bits: jax.Array, otherwise: Any) -> OfPrecision:
  """What a client receives of the sets that a server holds.

  Args:
    held: what the server holds.
    bits: the client's precision, int32 `[]`.
    otherwise: tree of arrays `[...]`, what it receives if the server has not
      heard of its precision, or does not tell it apart, as full precision.
  """
  precisions = held.heard.shape[0]
  apart = bits <= precisions
  slot = jnp.clip(bits - 1, 0, precisions - 1)
  value = jax.tree.map(
    lambda x, y: jnp.where(apart, x[slot], y), known(held, otherwise), otherwise
  )
  return OfPrecision(value, precisions)


def split(message: Any, bits: jax.Array | None) -> Any:
  """A message with a ByPrecision of weight 1 for each OfPrecision.

  Args:
    message: a tree; without any OfPrecision it stays as it is.
    bits: the sender's precision, int32 `[]`. At a precision that the server
      does not tell apart, as full precision, the part does not count.
  """

  def visit(node):
    if not is_of_precision(node):
      return node
    assert bits is not None
    own = jnp.arange(1, node.precisions + 1) == bits

    def place(x):
      mask = own.reshape(-1, *(1,) * jnp.ndim(x))
      return jnp.where(mask, x, jnp.zeros_like(x))

    return ByPrecision(jax.tree.map(place, node.value), own.astype(jnp.float32))

  return jax.tree.map(visit, message, is_leaf=is_of_precision)


def map_parts(
  plain: Callable[..., Any],
  apart: Callable[..., Any],
  tree: Any,
  *others: Any,
) -> Any:
  """Maps a function over all leaves, and another over every ByPrecision.

  Args:
    plain: `(leaf, *those of others) -> leaf`.
    apart: `(ByPrecision, *subtrees of others) -> node`.
    tree: what was heard.
    others: trees with the same structure, but for what they have in place of a
      ByPrecision.
  """
  return jax.tree.map(
    lambda node, *more: (apart if is_by_precision(node) else plain)(
      node, *more
    ),
    tree,
    *others,
    is_leaf=is_by_precision,
  )


def share(total: jax.Array, weight: Any) -> jax.Array:
  """A total divided by its weight; 0 where that is 0."""
  heard = weight > 0
  result = total / jnp.where(heard, weight, 1.0)
  return jnp.where(heard, result, 0.0).astype(total.dtype)


def mean(heard: ByPrecision) -> Held:
  """The mean part of each precision, and which were heard of.

  As a difference from what the server holds: the mean of a precision of which
  nothing was heard is zero.
  """
  values = jax.tree.map(
    lambda total: share(
      total, heard.weights.reshape(-1, *(1,) * (total.ndim - 1))
    ),
    heard.totals,
  )
  return Held(values, (heard.weights > 0).astype(jnp.float32))


def add(held: Held, difference: Held, otherwise: Any) -> Held:
  """The sets after a round.

  Args:
    held: before it.
    difference: the mean difference from what clients received.
    otherwise: what they received of a precision not heard of before.
  """
  values = jax.tree.map(
    lambda x, d: (x + d).astype(x.dtype),
    known(held, otherwise),
    difference.values,
  )
  return Held(values, held.heard + difference.heard)
