"""A cache of decoded arrays on disk."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable

import numpy as np

Arrays = dict[str, np.ndarray]


def default_cache_dir() -> pathlib.Path:
  """Returns `$QUPED_CACHE_DIR`, or `quped_jax` in the user's cache folder."""
  if folder := os.environ.get("QUPED_CACHE_DIR"):
    return pathlib.Path(folder).expanduser()
  parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(parent).expanduser() / "quped_jax"


def fingerprint(paths: Iterable[pathlib.Path]) -> str:
  """Returns a short hash of the names, sizes and times of change of files."""
  digest = hashlib.sha256()
  for path in sorted(paths):
    status = path.stat()
    entry = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    digest.update(repr(entry).encode())
  return digest.hexdigest()[:16]


def cached(path: pathlib.Path, make: Callable[[], Arrays]) -> Arrays:
  """Returns the arrays stored at `path`, or makes and stores them.

  The file is a zip of `.npy` files: its checksums give a damaged one away,
  which is then made again.

  Args:
    path: The file, `.npz`. What the arrays depend on must be in its name.
    make: Makes the arrays.

  Returns:
    The arrays by name.
  """
  try:
    # np.load leaves a file that it opened itself open if it is damaged.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile):
    warnings.warn(f"{path} is damaged: making it again", stacklevel=2)
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


def _write(path, arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  # A reader never sees half a file: it is written beside and then renamed.
  handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
  try:
    with os.fdopen(handle, "wb") as file:
      np.savez(file, **arrays)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
