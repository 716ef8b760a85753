"""The client axis: a function of one client, run over many.

Clients' states are stacked: every array leads with a `clients` axis. They run
either all at once under vmap, or in chunks: a loop that updates the stacked
state in place, with vmap inside, whose memory grows with the chunk and not
with the federation. A chunk of one client needs no vmap at all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

STRATEGIES = ("auto", "vmap", "chunks")


def resolve_chunk_size(strategy: str, chunk_size: int, num_clients: int) -> int:
  """How many clients run at once.

  "auto" is one at a time on a CPU, where batched small products and copies of
  stacked state cost more than they save, and all at once elsewhere.

  Args:
    strategy: "auto", "vmap" or "chunks".
    chunk_size: of "chunks".
    num_clients: that take part in a round.

  Raises:
    ValueError: unknown strategy, or a chunk of less than one client.
  """
  if strategy not in STRATEGIES:
    raise ValueError(
      f"strategy={strategy!r}: must be one of {', '.join(STRATEGIES)}"
    )
  if chunk_size < 1:
    raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
  if strategy == "chunks":
    return min(chunk_size, num_clients)
  if strategy == "auto" and jax.default_backend() == "cpu":
    return 1
  return num_clients


def _batched(fn: Callable[..., Any], size: int) -> Callable[..., Any]:
  """fn over a leading axis of `size` clients; without vmap if it is one."""
  if size > 1:
    return jax.vmap(fn)

  def single(*args):
    result = fn(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], result)

  return single


def run_clients(
  step: Callable[[jax.Array, Any], tuple[Any, Any]],
  client_ids: jax.Array,
  states: Any,
  *,
  chunk_size: int,
  positions: jax.Array | None = None,
) -> tuple[Any, Any]:
  """Runs a step of every participating client and sums what they send.

  Args:
    step: `(client_id, state) -> (new state, output)`, for one client.
    client_ids: int32 `[participants]`.
    states: tree of arrays `[clients, ...]`.
    chunk_size: how many participants run at once.
    positions: int32 `[participants]`, where in `states` the participants are;
      None if they are all clients, in order.

  Returns:
    The states, those of participants updated, and the sum of the outputs over
    the participants.
  """
  count = client_ids.shape[0]

  def run(start, size, states):
    """The participants from `start` on; start may be traced, size not."""
    ids = jax.lax.dynamic_slice_in_dim(client_ids, start, size)
    if positions is None:
      mine = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), states
      )
    else:
      where = jax.lax.dynamic_slice_in_dim(positions, start, size)
      mine = jax.tree.map(lambda x: x[where], states)
    new, outputs = _batched(step, size)(ids, mine)
    if positions is None:
      states = jax.tree.map(
        lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0),
        states,
        new,
      )
    else:
      states = jax.tree.map(lambda x, y: x.at[where].set(y), states, new)
    return states, jax.tree.map(lambda x: jnp.sum(x, axis=0), outputs)

  if chunk_size >= count:
    return run(0, count, states)

  _, shape = jax.eval_shape(lambda s: run(0, chunk_size, s), states)
  total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)

  def body(chunk, carry):
    states, total = carry
    states, part = run(chunk * chunk_size, chunk_size, states)
    return states, jax.tree.map(jnp.add, total, part)

  chunks, rest = divmod(count, chunk_size)
  states, total = jax.lax.fori_loop(0, chunks, body, (states, total))
  if rest:
    states, part = run(chunks * chunk_size, rest, states)
    total = jax.tree.map(jnp.add, total, part)
  return states, total


def map_clients(
  fn: Callable[[jax.Array, Any], Any],
  client_ids: jax.Array,
  states: Any,
  *,
  chunk_size: int,
) -> Any:
  """Applies a function to every client without changing its state.

  Args:
    fn: `(client_id, state) -> output`, for one client.
    client_ids: int32 `[clients]`.
    states: tree of arrays `[clients, ...]`.
    chunk_size: how many clients run at once.

  Returns:
    The outputs, stacked: arrays `[clients, ...]`.
  """
  count = client_ids.shape[0]
  if chunk_size >= count:
    return _batched(fn, count)(client_ids, states)
  size = None if chunk_size == 1 else chunk_size
  return jax.lax.map(lambda x: fn(*x), (client_ids, states), batch_size=size)
