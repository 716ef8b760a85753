"""Parts of messages that the server averages by precision.

Most of what clients send is averaged over all of them. The batch-norm
statistics of a shared model's quantized form belong to one precision: a 1-bit
and a 4-bit form of the same weights have different ones. The server therefore
holds one set for each precision, and averages what it hears of each among the
clients that have this precision. A precision of which it hears nothing keeps
the set that it has.

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


def is_of_precision(node: Any) -> bool:
  """Whether a node is an OfPrecision."""
  return isinstance(node, OfPrecision)


def is_by_precision(node: Any) -> bool:
  """Whether a node is a ByPrecision."""
  return isinstance(node, ByPrecision)


def begin(value: Any, precisions: int) -> Any:
  """What a server holds at first, the same for every precision.

  Args:
    value: tree of arrays `[...]`.
    precisions: how many precisions it tells apart.

  Returns:
    Tree of arrays `[precisions, ...]`.
  """
  return jax.tree.map(
    lambda x: jnp.broadcast_to(x, (precisions, *jnp.shape(x))), value
  )


def take(held: Any, bits: jax.Array, otherwise: Any) -> OfPrecision:
  """What a client receives of the sets that a server holds.

  Args:
    held: tree of arrays `[precisions, ...]`.
    bits: the client's precision, int32 `[]`.
    otherwise: tree of arrays `[...]`, what it receives if the server holds no
      set for its precision, as for full precision.
  """
  precisions = jax.tree.leaves(held)[0].shape[0]
  known = bits <= precisions
  slot = jnp.clip(bits - 1, 0, precisions - 1)
  value = jax.tree.map(
    lambda x, y: jnp.where(known, x[slot], y), held, otherwise
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


def mean(heard: ByPrecision) -> Any:
  """The mean part of each precision; zero for one of which nothing was heard.

  Returns:
    Tree of arrays `[precisions, ...]`.
  """

  def one(total):
    weights = heard.weights.reshape(-1, *(1,) * (total.ndim - 1))
    known = weights > 0
    share = total / jnp.where(known, weights, 1.0)
    return jnp.where(known, share, 0.0).astype(total.dtype)

  return jax.tree.map(one, heard.totals)
