"""How clients are laid out: over which devices, and how many at once on each.

Stacked arrays lead with a `clients` axis, which is divided evenly over the
devices of a mesh; a `Layout` says how, moves arrays to where they are needed,
and wraps functions so that each device runs them on its own part.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from quped_jax import checks
from quped_jax.simulation import at_once as at_once_lib
from quped_jax.simulation.memory import Estimate

STRATEGIES = ("auto", "vmap", "chunks", "dispatch")
AXIS = "clients"

# Specs of what is the same on all devices, and of what is divided over them.
SAME, DIVIDED = P(), P(AXIS)

# Each CPU device holds a copy of the server's state and of the public set.
_MOST_CPU_DEVICES = 8

# A device that is done with its clients waits for the others. XLA on CPU ends
# the process after 40 seconds of waiting, which an uneven round or a busy
# machine easily takes. So it waits for a week, with a warning every hour.
_PATIENCE = {
  "--xla_cpu_collective_call_terminate_timeout_seconds": 7 * 24 * 3600,
  "--xla_cpu_collective_call_warn_stuck_timeout_seconds": 3600,
}


def wait_for_devices() -> None:
  """Lets CPU devices wait for each other as long as it takes.

  Sets XLA_FLAGS in the environment, which has no effect once JAX has been used.
  Flags that are set already stay as they are.
  """
  flags = os.environ.get("XLA_FLAGS", "").split()
  given = {flag.partition("=")[0] for flag in flags}
  flags += [f"{k}={v}" for k, v in _PATIENCE.items() if k not in given]
  os.environ["XLA_FLAGS"] = " ".join(flags)


def use_cores(limit: int = _MOST_CPU_DEVICES) -> bool:
  """Makes every CPU core a device, so that clients run side by side.

  XLA divides single operations over the cores; those of a small model are too
  small for that, and leave all but one core idle. The commands call this. Where
  JAX has an accelerator it changes nothing.

  Args:
    limit: the largest number of devices; JAX_NUM_CPU_DEVICES in the
      environment takes precedence.

  Returns:
    Whether the number of devices is set; False if it is too late, since JAX
    has been used before.
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
    why: why so many run at once, in words.
  """

  mesh: Mesh | None
  chunk_size: int
  on_host: bool = False
  why: str = ""

  @property
  def devices(self) -> int:
    return self.mesh.size if self.mesh else 1

  @property
  def at_once(self) -> int:
    """How many clients run at once on all devices together."""
    return self.devices * self.chunk_size

  def halved(self) -> "Layout":
    """Half as many clients at once, where memory has no room for so many."""
    why = f"memory had no room for {self.chunk_size} at once"
    return self._replace(chunk_size=-(-self.chunk_size // 2), why=why)

  def slots(self, clients: int) -> int:
    """The length of stacked arrays: a multiple of the number of devices."""
    return -(-clients // self.devices) * self.devices

  def groups(self, stacks: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Which clients each device has, of stacks that are divided over devices.

    Args:
      stacks: client ids, int32 `[clients]` each; a device has a share of each.

    Returns:
      The ids of each device's clients.
    """
    shares = [
      np.split(ids, np.arange(1, self.devices) * (size // self.devices))
      for ids in stacks
      for size in [self.slots(len(ids))]
    ]
    return [np.concatenate(own) for own in zip(*shares, strict=True)]

  def shard(self, fn: Callable[..., Any], in_specs: Any, out_specs: Any):
    """`fn`, run by each device on its part; specs as in `jax.shard_map`."""
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
    """Moves arrays to where `shard` expects them, if they are not there yet.

    With several processes, each holds the whole array and moves its own part.
    """
    if self.mesh is None:
      return jax.device_put(tree)
    sharding = NamedSharding(self.mesh, spec)
    if not self.across:
      return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: _place_part(x, sharding), tree)

  @property
  def owners(self) -> np.ndarray:
    """The process of each device, int32 `[devices]`."""
    if self.mesh is None:
      return np.zeros(1, np.int32)
    owners = [device.process_index for device in self.mesh.devices.flat]
    return np.array(owners, np.int32)

  def place_own(self, tree: Any) -> Any:
    """Divides arrays over the devices; the inverse of `fetch`.

    Args:
      tree: arrays `[slots, ...]`; with several processes, only the slots of
        this process's devices.
    """
    if self.mesh is None or not self.across:
      return self.place(tree, DIVIDED)
    sharding = NamedSharding(self.mesh, DIVIDED)
    here = jax.process_index()
    own = [d for d in self.mesh.devices.flat if d.process_index == here]

    def place(x):
      whole = (len(x) // len(own) * self.devices, *x.shape[1:])
      parts = map(jax.device_put, np.split(np.asarray(x), len(own)), own)
      return jax.make_array_from_single_device_arrays(
        whole, sharding, list(parts)
      )

    return jax.tree.map(place, tree)

  def join(
    self,
    parts: Callable[[int], np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
  ) -> jax.Array:
    """Joins the parts of all devices to one array that is divided over them.

    Args:
      parts: `device -> [at most shape[0], ...]`, padded with zeros; called for
        this process's devices only.
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
    sharding = NamedSharding(self.mesh, DIVIDED)
    return jax.make_array_from_callback(whole, sharding, part)

  def sum(self, tree: Any) -> Any:
    """The sum over devices, inside `shard`."""
    return tree if self.mesh is None else jax.lax.psum(tree, AXIS)

  def gather(self, tree: Any) -> Any:
    """The devices' arrays one after the other, inside `shard`."""
    if self.mesh is None:
      return tree
    return jax.lax.all_gather(tree, AXIS, tiled=True)


def fetch(tree: Any) -> Any:
  """Arrays in host memory: of those divided over processes, our own slots."""

  def shards(x):
    return sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)

  leaves, structure = jax.tree.flatten(tree)
  divided = [_is_divided(x) for x in leaves]
  for x, is_divided in zip(leaves, divided, strict=True):
    if is_divided:  # All at once, and then they are waited for.
      for shard in shards(x):
        shard.data.copy_to_host_async()
  own = [
    np.concatenate([np.asarray(shard.data) for shard in shards(x)])
    if is_divided
    else x
    for x, is_divided in zip(leaves, divided, strict=True)
  ]
  return jax.device_get(structure.unflatten(own))


def _is_divided(x: Any) -> bool:
  """Whether other processes have parts of an array that this one has not."""
  return isinstance(x, jax.Array) and not (
    x.is_fully_addressable or x.is_fully_replicated
  )


def _place_part(x: Any, sharding: NamedSharding) -> jax.Array:
  """An array of which this process holds the whole, or already its part."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return x
  if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(
      _place_part(jax.random.key_data(x), sharding)
    )
  # A plain number has the type that programs compute in.
  host = np.asarray(jnp.asarray(x) if isinstance(x, float) else x)
  return jax.make_array_from_callback(
    host.shape, sharding, lambda index: host[index]
  )


def resolve_layout(
  strategy: str,
  chunk_size: int,
  participants: int,
  *,
  devices: int = 0,
  platform: str = "cpu",
  clients: int = 0,
  estimate: Estimate | None = None,
  limit: int | None = None,
  batches: bool = False,
) -> Layout:
  """Chooses how clients are run.

  Args:
    strategy: "auto", "vmap", "chunks" or "dispatch"; for "auto" see
      `quped_jax.simulation.at_once`.
    chunk_size: of "chunks" and "dispatch", on each device.
    participants: how many clients run in a round.
    devices: how many devices to use; 0 for all that JAX has. No more are used
      than clients take part.
    platform: of the devices, such as "cpu" or "gpu", for which "auto" chooses.
    clients: whose states are on the devices; 0 for the participants'.
    estimate: the terms of a round's memory; None if unknown.
    limit: bytes of a device's memory; None if unknown.
    batches: whether small clients gain on a CPU by running at once.

  Raises:
    ValueError: unknown strategy, a chunk of less than one client, or more
      devices than there are.
  """
  checks.choice("strategy", strategy, STRATEGIES)
  checks.at_least("chunk_size", chunk_size, 1)
  available = jax.devices()
  _check_devices(devices, len(available))
  if jax.process_count() > 1:
    # Each process has a part in every program, if only of empty slots.
    participants = max(participants, len(available))
  used = min(devices or len(available), participants)
  mesh = Mesh(np.array(available[:used]), (AXIS,)) if used > 1 else None
  share = -(-participants // used)
  if strategy in ("chunks", "dispatch"):
    choice = at_once_lib.Choice(min(chunk_size, share), "as chunk_size says")
  elif strategy == "vmap":
    choice = at_once_lib.Choice(share, "all of them, as strategy says")
  else:
    choice = at_once_lib.choose(
      platform,
      share,
      -(-max(clients, participants) // used),
      estimate,
      limit=limit,
      batches=batches,
    )
  return Layout(mesh, choice.size, strategy == "dispatch", choice.why)


def _check_devices(devices: int, available: int) -> None:
  checks.at_least("devices", devices, 0)
  if devices and jax.process_count() > 1:
    raise ValueError(
      f"devices={devices}: must be 0, all of them, with "
      f"{jax.process_count()} processes"
    )
  if devices > available:
    raise ValueError(
      f"devices={devices}: must be at most {available}, the devices that JAX "
      "has here"
    )
