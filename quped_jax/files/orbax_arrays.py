"""Arrays of a checkpoint, as orbax writes them."""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

# In characters: libraries' errors of a file may be long.
_MAX_REASON = 200
# Paths that mean themselves to every library.
_PLAIN = re.compile(r"[\w./+=,@ -]*", re.ASCII)


class DamagedError(Exception):
  """A checkpoint cannot be used; says what is wrong."""


def _checkpointer() -> Any:
  """One of this process alone: orbax would wait for all the others."""
  import orbax.checkpoint as ocp  # Takes seconds.

  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(here, {here}, f"process_{here}")
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _plain(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path of a folder that means itself to every library.

  Orbax takes `[1]` in a path for a pattern, finds none of what it wrote, and
  saves nothing; "gs:" is a service to it, and bytes that are not UTF-8 an
  error.
  """
  folder = folder.resolve()
  if _PLAIN.fullmatch(str(folder)):
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix="quped_jax_") as place:
    if not _PLAIN.fullmatch(place):
      raise OSError(
        f"TMPDIR={place!r}: must be of letters and digits, as a workdir with "
        "other characters is reached by a link from there"
      )
    link = pathlib.Path(place) / "link"
    link.symlink_to(folder, target_is_directory=True)
    yield link


def save(path: pathlib.Path, tree: Any) -> None:
  """Writes all arrays of a tree, into a folder that is not there yet."""
  leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
  # Empty arrays cannot be saved, and need not be.
  arrays = {str(i): x for i, x in enumerate(leaves) if x.size}
  with _plain(path.parent) as folder, _checkpointer() as checkpointer:
    checkpointer.save(folder / path.name, arrays)


def load(path: pathlib.Path, shapes: Any) -> Any:
  """Reads arrays; whatever a library finds wrong with its files is damage."""
  leaves, structure = jax.tree.flatten(shapes)
  with _plain(path.parent) as folder:
    try:
      with _checkpointer() as checkpointer:
        arrays = checkpointer.restore(folder / path.name)
      # Copies, since states in host memory are updated in place.
      return structure.unflatten(
        np.array(arrays[str(i)], x.dtype).reshape(x.shape)
        if np.prod(x.shape)
        else np.zeros(x.shape, x.dtype)
        for i, x in enumerate(leaves)
      )
    except MemoryError:
      raise
    except Exception as error:
      # Damaged files fail in any of the libraries below.
      reason = " ".join(str(error).split())[:_MAX_REASON]
      raise DamagedError(f"{type(error).__name__}: {reason}") from error
