"""The client axis: a function of one client, run over many.

Clients' states are stacked: every array leads with a `clients` axis, divided
evenly over the devices of a mesh. Each device runs its own clients, all at
once under vmap or in chunks: a loop that updates the stacked state in place,
with vmap inside, whose memory grows with the chunk and not with the
federation. A chunk of one client needs no vmap at all. The loop is compiled,
or it is the host's, which never waits for a value ("dispatch"). Only sums,
and what a method collects of single messages, cross between devices.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

STRATEGIES = ("auto", "vmap", "chunks", "dispatch")
AXIS = "clients"

# Each CPU device holds what the server knows, and the public set.
_MOST_CPU_DEVICES = 8

# What stays in the cache of a core: half of what small ones have today.
_CORE_BYTES = 2**20
_MOST_AT_ONCE = 16


# A device that is done with its clients waits for the others; XLA on CPU ends
# the process after 40 seconds of that, which an uneven round, or a busy
# machine, takes easily. A week, then, and a warning every hour.
_PATIENCE = {
  "--xla_cpu_collective_call_terminate_timeout_seconds": 7 * 24 * 3600,
  "--xla_cpu_collective_call_warn_stuck_timeout_seconds": 3600,
}


def wait_for_devices() -> None:
  """Lets CPU devices wait for each other as long as it takes.

  Goes into XLA_FLAGS in the environment, and so does nothing once JAX has been
  used. What is there already stays.
  """
  flags = os.environ.get("XLA_FLAGS", "").split()
  given = {flag.partition("=")[0] for flag in flags}
  flags += [f"{k}={v}" for k, v in _PATIENCE.items() if k not in given]
  os.environ["XLA_FLAGS"] = " ".join(flags)


def use_cores(limit: int = _MOST_CPU_DEVICES) -> bool:
  """Makes every CPU core a device, so that clients run side by side.

  XLA divides single operations over the cores; those of a small model are too
  small for that and leave all but one core idle. The commands in
  `experiments` call this. Where JAX has an accelerator it changes nothing.

  Args:
    limit: the largest number of devices. JAX_NUM_CPU_DEVICES in the
      environment overrides it, and is overridden by nothing else.

  Returns:
    False if JAX has been used before, which is too late; True if this, or the
    environment, decides.
  """
  wait_for_devices()
  if "JAX_NUM_CPU_DEVICES" in os.environ:
    return True
  if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  try:
    jax.config.update("jax_num_cpu_devices", min(cores, limit))
  except RuntimeError:
    return False
  return True


class Layout(NamedTuple):
  """How the clients are run.

  Attributes:
    mesh: the devices; None for the default device alone.
    chunk_size: how many clients run at once on each device.
    on_host: whether the loop over chunks is the host's.
  """

  mesh: Mesh | None
  chunk_size: int
  on_host: bool = False

  @property
  def devices(self) -> int:
    return self.mesh.size if self.mesh else 1

  @property
  def at_once(self) -> int:
    """How many clients run at once on all devices together."""
    return self.devices * self.chunk_size

  def slots(self, clients: int) -> int:
    """The length of stacked arrays: a multiple of the number of devices."""
    return -(-clients // self.devices) * self.devices

  def groups(self, stacks: Iterable[np.ndarray]) -> list[np.ndarray]:
    """What each device has of stacks that are divided over the devices.

    Args:
      stacks: int32 `[clients]`, each; a device has a share of each.
    """
    shares = [
      np.split(ids, np.arange(1, self.devices) * (size // self.devices))
      for ids in stacks
      for size in [self.slots(len(ids))]
    ]
    return [np.concatenate(own) for own in zip(*shares, strict=True)]

  def shard(self, fn: Callable[..., Any], in_specs: Any, out_specs: Any):
    """fn as run by each device on its part; specs are those of shard_map."""
    if self.mesh is None:
      return fn
    # The check does not see through custom_vmap (`adaptive_conv`).
    return jax.shard_map(
      fn,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    )

  @property
  def across(self) -> bool:
    """Whether the devices belong to several processes."""
    return self.mesh is not None and jax.process_count() > 1

  def place(self, tree: Any, spec: P) -> Any:
    """Moves arrays to where `shard` takes them, if they are not there yet.

    With several processes each has all of an array, and moves its part.
    """
    if self.mesh is None:
      return jax.device_put(tree)
    sharding = NamedSharding(self.mesh, spec)
    if not self.across:
      return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: _place_part(x, sharding), tree)

  def join(
    self,
    parts: Callable[[int], np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
  ) -> jax.Array:
    """An array of a part for each device, divided over them.

    Args:
      parts: `device -> [at most shape[0], ...]`, filled up with zeros; called
        for this process's devices only.
      shape: of one device's part.
      dtype: of the array.
    """
    assert self.mesh is not None

    def part(index):
      filled = np.zeros(shape, dtype)
      own = parts((index[0].start or 0) // shape[0])
      filled[: len(own)] = own
      return filled

    whole = (self.devices * shape[0], *shape[1:])
    sharding = NamedSharding(self.mesh, P(AXIS))
    return jax.make_array_from_callback(whole, sharding, part)

  def sum(self, tree: Any) -> Any:
    """The sum over devices, inside `shard`."""
    return tree if self.mesh is None else jax.lax.psum(tree, AXIS)

  def gather(self, tree: Any) -> Any:
    """The devices' arrays one after the other, inside `shard`."""
    if self.mesh is None:
      return tree
    return jax.lax.all_gather(tree, AXIS, tiled=True)


def _place_part(x: Any, sharding: NamedSharding) -> jax.Array:
  """This process's part of an array that it has, or has its part of."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return x
  if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(
      _place_part(jax.random.key_data(x), sharding)
    )
  host = np.asarray(x)
  return jax.make_array_from_callback(
    host.shape, sharding, lambda index: host[index]
  )


def check_strategy(strategy: str, chunk_size: int, devices: int) -> None:
  """Raises a ValueError unless clients can be run so."""
  if strategy not in STRATEGIES:
    raise ValueError(
      f"strategy={strategy!r}: must be one of {', '.join(STRATEGIES)}"
    )
  if chunk_size < 1:
    raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
  if devices < 0:
    raise ValueError(f"devices={devices}: must be at least 0 (0 is all)")


def resolve_layout(
  strategy: str,
  chunk_size: int,
  participants: int,
  *,
  devices: int = 0,
  room_for: int | None = None,
  client_bytes: int | None = None,
) -> Layout:
  """Chooses how clients are run.

  "auto" is one at a time on each device on CPUs, where batched small products
  and copies of stacked state cost more than they save, or a few where a client
  is so small that starting operations is what takes time; on accelerators it
  is all at once, or as many as memory has room for.

  Args:
    strategy: "auto", "vmap", "chunks" or "dispatch".
    chunk_size: of "chunks" and "dispatch", on each device.
    participants: how many clients run in a round.
    devices: how many devices to use; 0 for all that JAX has, of which no more
      are used than clients take part.
    room_for: how many clients a device's memory has room for at once; None if
      that is not known.
    client_bytes: what one more client takes that runs at the same time; None
      if that is not known.

  Raises:
    ValueError: unknown strategy, a chunk of less than one client, or more
      devices than there are.
  """
  check_strategy(strategy, chunk_size, devices)
  available = jax.devices()
  if jax.process_count() > 1:
    # Each process has a part in every program, if only of empty slots.
    if devices:
      raise ValueError(
        f"devices={devices}: must be 0, all of them, with "
        f"{jax.process_count()} processes"
      )
    participants = max(participants, len(available))
  if devices > len(available):
    raise ValueError(
      f"devices={devices}: must be at most {len(available)}, the devices that "
      "JAX has here"
    )
  used = min(devices or len(available), participants)
  mesh = Mesh(np.array(available[:used]), (AXIS,)) if used > 1 else None
  share = -(-participants // used)
  if strategy in ("chunks", "dispatch"):
    size = min(chunk_size, share)
  elif strategy == "vmap":
    size = share
  elif available[0].platform == "cpu":
    size = _few(share, client_bytes)
  else:
    size = share if room_for is None else max(min(share, room_for), 1)
  return Layout(mesh, size, strategy == "dispatch")


def _few(share: int, client_bytes: int | None) -> int:
  """How many small clients a core runs at once: a divisor of its share."""
  if not client_bytes:
    return 1
  most = min(max(_CORE_BYTES // client_bytes, 1), _MOST_AT_ONCE, share)
  return max(size for size in range(1, most + 1) if share % size == 0)


class Chosen(NamedTuple):
  """Which of a device's clients run.

  Attributes:
    positions: int32 `[slots]`, where in the stacked state they are, those that
      run first.
    count: how many run.
    most: the largest count that there can be, static.
  """

  positions: jax.Array
  count: Any
  most: int


def choose(present: jax.typing.ArrayLike, most: int) -> Chosen:
  """Those whom a mask names, in order.

  Args:
    present: bool `[slots]`.
    most: the largest number of them that there can be.
  """
  present = jnp.asarray(present)
  size = present.shape[0]
  (positions,) = jnp.nonzero(present, size=size, fill_value=size - 1)
  return Chosen(positions.astype(jnp.int32), jnp.sum(present), most)


def _batched(fn: Callable[..., Any], size: int) -> Callable[..., Any]:
  """fn over a leading axis of `size` clients; without vmap if it is one."""
  if size > 1:
    return jax.vmap(fn)

  def single(*args):
    result = fn(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], result)

  return single


# `(client_id, state) -> (new state, output)`, for one client.
Step = Callable[[jax.Array, Any], tuple[Any, Any]]


def _run_block(step: Step, ids, states, start, size):
  """Clients that lie side by side, from `start` on; it may be traced."""

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
  """Runs the `index`-th `size` of the clients; the arguments of `run_clients`.

  `surely` says that the chunk is not beyond the last that is chosen.

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
  """What the outputs of no client at all sum up to."""
  _, shape = jax.eval_shape(lambda s: _run_block(step, ids, s, 0, 1), states)
  return _zeros(shape)


def divide(slots: int, chunk_size: int, chosen: Chosen | None):
  """How a device divides its clients: (chosen, clients in a chunk, chunks).

  The number of chunks is traced where only some clients run.
  """
  size = min(chunk_size, slots if chosen is None else chosen.most)
  if chosen is None and slots % size == 0:
    return None, size, slots // size
  if chosen is None:
    # The last chunk is not full.
    chosen = Chosen(jnp.arange(slots, dtype=jnp.int32), slots, slots)
  # One alone is not masked, so that it must not run where nobody is chosen.
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
    zero: the `zero_output`, if it is known: the step need not be traced for it.

  Returns:
    The states, those of participants updated, and the sum of the outputs over
    the participants.
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
