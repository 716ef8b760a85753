r"""Compressed messages: what clients send takes fewer bytes.

A client sends each array of its message as a compressor c makes it of it (see
`compressors.py`), in bytes that are counted as they are. With error feedback it
keeps what was lost, e, and adds it to its next message d:

.. math::
  p = d + e, \qquad \text{send } c(p), \qquad e \leftarrow p - c(p).

All that was sent and e together are all that was to be sent, so that nothing is
lost for good. The residual e is part of the client's state; it changes only in
rounds in which the client's message counts.

Integers, arrays of fewer than `SMALLEST` numbers, and batch-norm statistics
travel whole. In what a client says of its statistics, what was not heard before
is said again: with error feedback it would count twice and more. What the
server sends is not compressed.

The server decodes messages before it does anything else with them
(`FederatedMethod.decode`): judges whether a client diverged, clips, adds noise,
takes a median. So this wrapper goes around all others, a Byzantine client's lie
is compressed like any message, and differential privacy, which clips what was
decoded, promises what it does without.

This is for methods whose messages are differences from what was downloaded,
array by array: those that average (`FederatedMethod.averages`), and those that
say so by `FederatedMethod.differences`. Error feedback presumes that clients
take part again; one that never does keeps its residual.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import random_keys
from quped_jax.methods import api
from quped_jax.methods.blocks import personal
from quped_jax.methods.exchange import is_statistic
from quped_jax.methods.wrappers import compressors

COMPRESSIONS = ("none", "qsgd", "uniform", "topk", "sign")
ERROR_FEEDBACK = ("auto", "on", "off")
# Those that are wrong on average.
_BIASED = ("topk", "sign")

# Smaller arrays are few bytes, and often those that a model depends on most.
SMALLEST = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
  """An array of a message as it travels.

  Attributes:
    sent: what its compressor made of it, a tree of arrays.
    shape: of the array; static.
    dtype: likewise.
  """

  sent: Any
  shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  dtype: Any = dataclasses.field(metadata={"static": True})


class CompressingClient(NamedTuple):
  """What stays with a client.

  Attributes:
    own: its state in the method that is wrapped.
    residual: e, float32 `[n]` of each array that is compressed; () without
      error feedback.
  """

  own: Any
  residual: tuple[jax.Array, ...]


def check_error_feedback(compression: str, error_feedback: str) -> None:
  """Raises a ValueError if there is no error that could be fed back."""
  if error_feedback == "on" and compression == "none":
    raise ValueError(
      "error_feedback='on': must be 'auto' or 'off' with compression='none', "
      "by which nothing is lost"
    )


def feeds_back(compression: str, error_feedback: str) -> bool:
  """Whether clients keep what is lost: by default if it is lost by bias."""
  if error_feedback == "auto":
    return compression in _BIASED
  return error_feedback == "on"


def make_compressor(
  compression: str, *, bits: int, norm: str, share: float
) -> compressors.Compressor:
  """The compressor that settings name.

  Args:
    compression: one of `COMPRESSIONS` but "none".
    bits: for "qsgd" and "uniform".
    norm: for "qsgd".
    share: for "topk".
  """
  if compression == "qsgd":
    return compressors.qsgd(bits, norm)
  if compression == "uniform":
    return compressors.uniform(bits)
  if compression == "topk":
    return compressors.top_k(share)
  return compressors.signs()


def _differences(method: api.FederatedMethod) -> Callable[[Any], Any] | None:
  """`download -> what a message differs from`; None if there is no such."""
  if method.differences is not None:
    return method.differences
  return personal.model_of if method.averages else None


def check_compressible(
  method: api.FederatedMethod, name: str, compression: str
) -> None:
  """Raises a ValueError unless a method's messages can be compressed.

  Args:
    method: the method to wrap.
    name: the method's name.
    compression: one of `COMPRESSIONS`.
  """
  if compression != "none" and _differences(method) is None:
    raise ValueError(
      f"compression={compression!r}: must be 'none' with method={name!r}, "
      "whose messages are not differences of a model"
    )


def _is_compressed(path: Sequence[Any], leaf: Any) -> bool:
  leaf = jnp.asarray(leaf)
  floats = jnp.issubdtype(leaf.dtype, jnp.floating)
  return floats and leaf.size >= SMALLEST and not is_statistic(path)


def _is_packed(node: Any) -> bool:
  return isinstance(node, Packed)


def _flat(leaf: Any) -> jax.Array:
  return jnp.asarray(leaf).astype(jnp.float32).reshape(-1)


def with_compression(
  method: api.FederatedMethod,
  compressor: compressors.Compressor,
  *,
  error_feedback: bool,
) -> api.FederatedMethod:
  """The method with compressed messages.

  Args:
    method: a method that passes `check_compressible`, with all other wrappers.
    compressor: what is sent of an array.
    error_feedback: whether clients add what was lost to their next messages.
  """
  differences = _differences(method)
  assert differences is not None

  def pack(key: jax.Array, leaf: jax.Array, values: jax.Array) -> Packed:
    return Packed(compressor.encode(key, values), leaf.shape, leaf.dtype)

  def unpacked(packed: Packed) -> jax.Array:
    """The array, flat and in float32."""
    size = jax.ShapeDtypeStruct(packed.shape, packed.dtype).size
    return compressor.decode(packed.sent, size)

  def decode(message):
    message = jax.tree.map(
      lambda x: (
        unpacked(x).reshape(x.shape).astype(x.dtype) if _is_packed(x) else x
      ),
      message,
      is_leaf=_is_packed,
    )
    return method.decode(message)

  def init_client(key, inputs, server, client_id, spec, cohort):
    own = method.init_client(key, inputs, server, client_id, spec, cohort)
    if not error_feedback:
      return CompressingClient(own, ())
    context = api.Context(
      round=jnp.int32(0),
      key=key,
      client_id=client_id,
      spec=spec,
      rates=None,
      shared_learning_rate=None,
    )
    like = differences(method.broadcast(server, context, cohort))
    return CompressingClient(
      own,
      tuple(
        jnp.zeros_like(_flat(x))
        for path, x in jax.tree.leaves_with_path(like)
        if _is_compressed(path, x)
      ),
    )

  def client_update(download, client, data, context, cohort):
    result = method.client_update(download, client.own, data, context, cohort)
    _check_alike(result.message, differences(download))
    key = jax.random.fold_in(context.key, random_keys.COMPRESSION)
    counts = jnp.asarray(result.weight) > 0
    named, structure = jax.tree.flatten_with_path(result.message)
    leaves = [leaf for _, leaf in named]
    before, after = iter(client.residual), []
    for index, (path, leaf) in enumerate(named):
      if not _is_compressed(path, leaf):
        continue
      values = _flat(leaf)
      own = jax.random.fold_in(key, index)
      if not error_feedback:
        leaves[index] = pack(own, leaf, values)
        continue
      error = next(before)
      values += error
      leaves[index] = packed = pack(own, leaf, values)
      after.append(jnp.where(counts, values - unpacked(packed), error))
    return result._replace(
      client=CompressingClient(result.client, tuple(after)),
      message=structure.unflatten(leaves),
    )

  def variants(server, client, data, context, cohort):
    return method.variants(server, client.own, data, context, cohort)

  begin_own = method.begin_finetune

  def begin_finetune(client):
    assert begin_own is not None
    return client._replace(own=begin_own(client.own))

  return method.replace(
    init_client=init_client,
    client_update=client_update,
    variants=variants,
    decode=decode,
    begin_finetune=begin_finetune if begin_own is not None else None,
  )


def _check_alike(message: Any, download: Any) -> None:
  """Raises a ValueError unless a message differs from these arrays."""

  def shapes(tree):
    return jax.tree.map(jnp.shape, tree)

  if shapes(message) != shapes(download):
    raise ValueError(
      "compression: must be 'none' with a method whose messages are not "
      "differences from what it says, array by array; see "
      "FederatedMethod.differences"
    )
