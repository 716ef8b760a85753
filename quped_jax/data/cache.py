"""A cache of decoded arrays on disk."""

from __future__ import annotations

import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from quped_jax import paths
from quped_jax.data import npy

Arrays = dict[str, np.ndarray]

_NAME = "name of this file"  # Among the arrays, in UTF-8.


def default_cache_dir() -> pathlib.Path:
  """Returns `$QUPED_CACHE_DIR`, or `quped_jax` in the user's cache folder.

  Raises:
    ValueError: If that lies in the home folder of a user who has none.
  """
  parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return paths.default("QUPED_CACHE_DIR", f"{parent}/quped_jax")


def fingerprint(files: Iterable[pathlib.Path]) -> str:
  """Returns a short hash of files' names, sizes and modification times."""
  digest = hashlib.sha256()
  for path in sorted(files):
    status = path.stat()
    entry = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    digest.update(repr(entry).encode())
  return digest.hexdigest()[:16]


def cached(
  path: pathlib.Path,
  make: Callable[[], Arrays],
  check: Callable[[Arrays], Any] = lambda arrays: None,
  *,
  mapped: bool = False,
) -> Arrays:
  """Returns the arrays stored at `path`, or makes and stores them.

  The file is a zip of `.npy` files, and holds its own name too. Its checksums
  reveal damage. A file that is damaged, that was stored under another name or
  that holds other arrays than it should is made again.

  Args:
    path: The file, `.npz`. Its name must tell all that the arrays depend on.
    make: Makes the arrays.
    check: Raises a ValueError for arrays that are not of the kind that is made.
    mapped: Map the file into memory, read-only, instead of reading it, so that
      unused parts are not read. Then only sizes are checked, not checksums.

  Returns:
    The arrays by name.
  """
  try:
    return _read(path, check, mapped)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, ValueError, MemoryError) as error:
    warnings.warn(f"{path} is damaged ({error}): making it again", stacklevel=2)
  arrays = make()
  try:
    _write(path, arrays)
  except OSError as error:
    warnings.warn(
      f"cache_dir={str(path.parent)!r}: cannot be written ({error}), so the "
      "data will be decoded again next time; set QUPED_CACHE_DIR to a folder "
      "that can",
      stacklevel=2,
    )
    return arrays
  return _read(path, check, mapped) if mapped else arrays


def _read(path, check, mapped) -> Arrays:
  arrays = npy.map_archive(path, checked=not mapped)
  name = arrays.pop(_NAME, np.zeros(0))
  if name.tobytes() != path.name.encode():
    raise ValueError("it was stored under another name")
  check(arrays)
  return arrays if mapped else {k: np.array(x) for k, x in arrays.items()}


def _write(path, arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  with paths.replacing(path) as file:
    name = np.frombuffer(path.name.encode(), np.uint8)
    content: Any = {**arrays, _NAME: name}  # No name is that of an argument.
    np.savez(file, **content)
