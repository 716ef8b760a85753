"""Clients' states in host memory or in files, for more clients than fit.

States are stacked as on a device, as arrays `[clients, ...]`; a round moves
only the participants, a block at a time. Files are mapped into memory, so that
what is not used is not loaded. All of their space is taken when they are made,
and once more when the fine-tuning phase begins, so that a disk that fills up
later cannot stop a run in the middle of a write. Of several processes each has
a folder of its own beside that of the first.
"""

import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import paths

PLACES = ("device", "host", "disk")

# Clients that are moved at once, by default.
_BLOCK = 256

# In the names of the folders of all processes but the first.
_OF_PROCESS = "_of_process_"


class Store(NamedTuple):
  """Where the clients' states are kept.

  Attributes:
    where: "device", on the devices that train them; "host", in host memory;
      "disk", in files that are mapped into memory.
    folder: of the files; those of further processes lie beside it.
    block: how many clients are moved at once; 0 for 256.
  """

  where: str = "device"
  folder: str | os.PathLike | None = None
  block: int = 0

  def block_clients(self, participants: int) -> int:
    """How many clients are on the devices at once."""
    return min(self.block or _BLOCK, participants)

  def allocate(self, shapes: Any, clients: int, name: str) -> Any:
    """Allocates room for clients' states; its content is undefined.

    Args:
      shapes: of one client's state.
      clients: the number of clients.
      name: of the folder for this cohort's files.

    Returns:
      A tree like `shapes` of numpy arrays `[clients, ...]`.

    Raises:
      ValueError: no room, in which case no file remains.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    if self.where != "disk":
      arrays = [np.empty((clients, *x.shape), x.dtype) for _, x in leaves]
      return jax.tree.unflatten(structure, arrays)
    if self.folder is None:
      raise ValueError(
        "client_state='disk': must be 'host' or 'device' without a workdir, in "
        "which the files would lie"
      )
    folder = _folder_of(self.folder, jax.process_index()) / name
    try:
      folder.mkdir(parents=True, exist_ok=True)
      arrays = [
        _make_file(folder / f"{i}.npy", (clients, *x.shape), x.dtype)
        for i, (_, x) in enumerate(leaves)
      ]
    except OSError as error:
      shutil.rmtree(folder, ignore_errors=True)
      size = sum(
        clients * int(np.prod(x.shape)) * x.dtype.itemsize for _, x in leaves
      )
      raise ValueError(
        f"client_state='disk': must have room for {size:,} bytes in "
        f"{str(folder)!r}, the states of {clients} clients ({error})"
      ) from error
    return jax.tree.unflatten(structure, arrays)

  def remove(self, name: str = ".") -> None:
    """Deletes files of states; those still in use vanish when that ends.

    Args:
      name: of the cohort's folder; by default, those of all cohorts.
    """
    if self.where != "disk" or self.folder is None:
      return
    here, count = jax.process_index(), jax.process_count()
    shutil.rmtree(_folder_of(self.folder, here) / name, ignore_errors=True)
    if name == "." and not here:
      # Of a run of more processes that was killed.
      present = {_folder_of(self.folder, process) for process in range(count)}
      first = _folder_of(self.folder, 0)
      for path in first.parent.glob(f"{first.name}{_OF_PROCESS}*"):
        if path not in present:
          shutil.rmtree(path, ignore_errors=True)


def _folder_of(folder: str | os.PathLike, process: int) -> pathlib.Path:
  """A process's folder; that of the first is as if there were no others."""
  path = paths.given("folder", folder)
  if not process:
    return path
  return path.with_name(f"{path.name}{_OF_PROCESS}{process}")


def _make_file(path: pathlib.Path, shape, dtype) -> np.ndarray:
  """A new .npy file, mapped into memory, whose space on the disk is taken."""
  path.unlink(missing_ok=True)
  array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
  # So far the space is only promised. If the disk ran out of it while mapped
  # memory is written to, a signal would end the process.
  size = path.stat().st_size
  with open(path, "r+b") as file:
    if hasattr(os, "posix_fallocate"):
      os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
      raise OSError("not enough space on the disk")
  return array


def gather(states: Any, rows: np.ndarray) -> Any:
  """The states of some clients, `[len(rows), ...]`."""
  return jax.tree.map(lambda x: np.take(x, rows, axis=0), states)


def scatter(states: Any, rows: np.ndarray, new: Any) -> None:
  """Writes the states of some clients, the first of `new`, in place."""

  def write(x, y):
    x[rows] = y[: len(rows)]

  jax.tree.map(write, states, new)


def check_store(where: str, block: int, strategy: str) -> None:
  """Raises a ValueError unless states can be kept so; see `Settings`."""
  if where == "device" and block:
    raise ValueError(
      f"clients_per_block={block}: must be 0 with client_state='device', from "
      "which nobody is moved"
    )
  if where != "device" and strategy == "dispatch":
    raise ValueError(
      f"strategy='dispatch': must be another with client_state={where!r}, "
      "whose blocks are the host's loop"
    )
