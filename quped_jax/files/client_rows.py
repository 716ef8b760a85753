"""Clients' states in a checkpoint of several processes: a folder of each.

`clients_00001/` holds those of process 1's clients, and whose they are, as
`.npy` files. They are mapped into memory when they are read, so that a process
loads the rows of its own clients only, however many processes there were.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from quped_jax.files.orbax_arrays import DamagedError

_PREFIX = "clients_"


def name_of(process: int) -> str:
  """The name of a process's folder."""
  return f"{_PREFIX}{process:05d}"


def parts(checkpoint: pathlib.Path) -> list[pathlib.Path]:
  """The folders of all processes; none if a single one wrote a checkpoint."""
  return sorted(checkpoint.glob(f"{_PREFIX}*"))


def shared(state: Any) -> Any:
  """A SimulationState without what is here."""
  return state._replace(members={}, clients={}, divergence={})


def _of_clients(state: Any) -> dict[str, Any]:
  """{cohort: (members, states, records)}."""
  return {
    cohort: (state.members[cohort], states, state.divergence[cohort])
    for cohort, states in state.clients.items()
  }


def save(checkpoint: pathlib.Path, state: Any, process: int) -> None:
  """Writes a process's part of a state.

  Args:
    checkpoint: the folder of the checkpoint.
    state: a SimulationState of numpy arrays.
    process: which process this is.
  """
  folder = checkpoint / name_of(process)
  folder.mkdir(parents=True)
  for i, x in enumerate(jax.tree.leaves(_of_clients(state))):
    np.save(folder / f"{i}.npy", x, allow_pickle=False)


def load(
  folders: Sequence[pathlib.Path],
  shapes: Any,
  state: Any,
  kept: Mapping[str, np.ndarray],
) -> Any:
  """Reads the states of some clients.

  Args:
    folders: of all processes that saved them.
    shapes: of the SimulationState of all clients.
    state: what is shared.
    kept: {cohort: ids of the clients}.

  Returns:
    The state with these clients.

  Raises:
    DamagedError: a client is missing, or a file cannot be read.
  """
  like, structure = jax.tree.flatten(_of_clients(shapes))
  try:
    saved = [
      structure.unflatten(
        np.load(folder / f"{i}.npy", "r", allow_pickle=False).view(x.dtype)
        for i, x in enumerate(like)
      )
      for folder in folders
    ]
    found = {
      cohort: _rows(ids, [part[cohort] for part in saved])
      for cohort, ids in kept.items()
    }
  except (OSError, ValueError) as error:
    raise DamagedError(f"{type(error).__name__}: {error}") from error
  return state._replace(
    members={cohort: members for cohort, (members, *_) in found.items()},
    clients={cohort: states for cohort, (_, states, _) in found.items()},
    divergence={cohort: records for cohort, (*_, records) in found.items()},
  )


def _rows(ids: np.ndarray, saved: Sequence[Any]) -> Any:
  """(members, states, records) of some clients, out of all parts."""
  new = jax.tree.map(
    lambda x: np.empty((len(ids), *x.shape[1:]), x.dtype), saved[0]
  )
  missing = set(ids.tolist())
  for part in saved:
    _, to, rows = np.intersect1d(ids, part[0], return_indices=True)
    for x, y in zip(jax.tree.leaves(new), jax.tree.leaves(part), strict=True):
      x[to] = y[rows]
    missing -= set(part[0].tolist())
  if missing:
    raise ValueError(f"the state of client {min(missing)} is missing")
  return new
