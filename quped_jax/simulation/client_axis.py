"""The client axis: a function of one client, run over many.

Clients' states are stacked: every array leads with a `clients` axis, which is
divided evenly over the devices (`quped_jax.simulation.layout`). Each device
runs its own clients, all at once under vmap or in chunks: a loop that updates
the stacked state in place, with vmap inside, whose memory grows with the chunk
and not with the federation. A chunk of one client needs no vmap at all. The
loop is compiled, or the host runs it and never waits for a value ("dispatch").
Only sums, and what a method collects of single messages, cross between devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Chosen(NamedTuple):
  """Which of a device's clients run.

  Attributes:
    positions: int32 `[slots]`, their positions in the stacked state come first.
    count: how many run.
    most: the largest possible count, static.
  """

  positions: jax.Array
  count: Any
  most: int


def choose(present: jax.typing.ArrayLike, most: int) -> Chosen:
  """Chooses the clients that a mask names, in order.

  Args:
    present: bool `[slots]`.
    most: the largest possible number of them.
  """
  present = jnp.asarray(present)
  size = present.shape[0]
  (positions,) = jnp.nonzero(present, size=size, fill_value=size - 1)
  return Chosen(positions.astype(jnp.int32), jnp.sum(present), most)


def _batched(fn: Callable[..., Any], size: int) -> Callable[..., Any]:
  """`fn` over a leading axis of `size` clients; a single one needs no vmap."""
  if size > 1:
    return jax.vmap(fn)

  def single(*args):
    result = fn(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], result)

  return single


# `(client_id, state) -> (new state, output)`, for one client.
Step = Callable[[jax.Array, Any], tuple[Any, Any]]


def _run_block(step: Step, ids, states, start, size):
  """Runs `size` clients that lie side by side, from `start`, maybe traced."""

  def block(x):
    return jax.lax.dynamic_slice_in_dim(x, start, size)

  new, outputs = _batched(step, size)(block(ids), jax.tree.map(block, states))
  states = jax.tree.map(
    lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0),
    states,
    new,
  )
  return states, jax.tree.map(lambda x: jnp.sum(x, axis=0), outputs)


def run_chunk(
  step: Step,
  ids: jax.Array,
  states: Any,
  index: Any,
  *,
  size: int,
  chosen: Chosen | None = None,
  surely: bool = False,
) -> tuple[Any, Any]:
  """Runs one chunk of the clients.

  Args:
    step: as in `run_clients`, like `ids` and `states`.
    ids: int32 `[slots]`.
    states: tree of arrays `[slots, ...]`.
    index: of the chunk, int32 `[]`.
    size: clients in a chunk.
    chosen: who runs; None for all.
    surely: whether the chunk is known to hold a client that is chosen.

  Returns:
    The states, and the sum of the outputs of these clients.
  """
  if chosen is None:
    return _run_block(step, ids, states, index * size, size)
  slots = ids.shape[0]
  place = index * size + jnp.arange(size)
  runs = place < chosen.count
  where = chosen.positions[jnp.minimum(place, slots - 1)]
  if size == 1:

    def run(states):
      return _run_block(step, ids, states, where[0], 1)

    def skip(states):
      return states, zero_output(step, ids, states)

    return run(states) if surely else jax.lax.cond(runs[0], run, skip, states)
  mine = jax.tree.map(lambda x: x[where], states)
  new, outputs = _batched(step, size)(ids[where], mine)
  target = jnp.where(runs, where, slots)
  states = jax.tree.map(
    lambda x, y: x.at[target].set(y, mode="drop"), states, new
  )

  def total(x):
    mask = runs.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(mask, x, 0), axis=0)

  return states, jax.tree.map(total, outputs)


def _zeros(shapes: Any) -> Any:
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def zero_output(step: Step, ids: jax.Array, states: Any) -> Any:
  """The sum of the outputs of no client: zeros."""
  _, shape = jax.eval_shape(lambda s: _run_block(step, ids, s, 0, 1), states)
  return _zeros(shape)


def divide(slots: int, chunk_size: int, chosen: Chosen | None):
  """How a device divides its clients into chunks.

  Args:
    slots: of the device.
    chunk_size: how many clients run at once.
    chosen: who runs; None for all.

  Returns:
    `(chosen, clients in a chunk, chunks)`; the number of chunks is traced where
    only some clients run.
  """
  size = min(chunk_size, slots if chosen is None else chosen.most)
  if chosen is None and slots % size == 0:
    return None, size, slots // size
  if chosen is None:
    # The last chunk is not full.
    chosen = Chosen(jnp.arange(slots, dtype=jnp.int32), slots, slots)
  # A chunk of one client is not masked: it must not run if nobody is chosen.
  if size >= chosen.most and size > 1:
    return chosen, size, 1
  return chosen, size, -(-chosen.count // size)


def run_clients(
  step: Step,
  ids: jax.Array,
  states: Any,
  *,
  chunk_size: int,
  chosen: Chosen | None = None,
  zero: Any = None,
) -> tuple[Any, Any]:
  """Runs a step of every participating client and sums what they send.

  Args:
    step: `(client_id, state) -> (new state, output)`, for one client.
    ids: int32 `[slots]`, the clients of this device.
    states: tree of arrays `[slots, ...]`.
    chunk_size: how many of them run at once.
    chosen: who runs; None for all.
    zero: the `zero_output`, if known; spares tracing the step for it.

  Returns:
    The states, in which those of participants are updated, and the sum of the
    participants' outputs.
  """
  chosen, size, chunks = divide(ids.shape[0], chunk_size, chosen)

  def run(index, states):
    return run_chunk(
      step, ids, states, index, size=size, chosen=chosen, surely=True
    )

  if isinstance(chunks, int) and chunks == 1:
    return run(0, states)

  def body(index, carry):
    states, total = carry
    states, part = run(index, states)
    return states, jax.tree.map(jnp.add, total, part)

  if zero is None:
    zero = zero_output(step, ids, states)
  return jax.lax.fori_loop(0, chunks, body, (states, zero))


def map_clients(
  fn: Callable[[jax.Array, Any], Any],
  ids: jax.Array,
  states: Any,
  *,
  chunk_size: int,
) -> Any:
  """Applies a function to every client without changing its state.

  Args:
    fn: `(client_id, state) -> output`, for one client.
    ids: int32 `[slots]`, the clients of this device.
    states: tree of arrays `[slots, ...]`.
    chunk_size: how many clients run at once.

  Returns:
    The outputs, stacked: arrays `[slots, ...]`.
  """
  count = ids.shape[0]
  if chunk_size >= count:
    return _batched(fn, count)(ids, states)
  size = None if chunk_size == 1 else chunk_size
  return jax.lax.map(lambda x: fn(*x), (ids, states), batch_size=size)
