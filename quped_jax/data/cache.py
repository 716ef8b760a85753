"""A cache of decoded arrays on disk."""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable

import numpy as np

Arrays = dict[str, np.ndarray]

# Where the header of a zip's member holds the lengths of its last two fields.
_LENGTHS_AT = 26


def default_cache_dir() -> pathlib.Path:
  """Returns `$QUPED_CACHE_DIR`, or `quped_jax` in the user's cache folder."""
  if folder := os.environ.get("QUPED_CACHE_DIR"):
    return pathlib.Path(folder).expanduser()
  parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(parent).expanduser() / "quped_jax"


def fingerprint(paths: Iterable[pathlib.Path]) -> str:
  """Returns a short hash of files' names, sizes and modification times."""
  digest = hashlib.sha256()
  for path in sorted(paths):
    status = path.stat()
    entry = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    digest.update(repr(entry).encode())
  return digest.hexdigest()[:16]


def cached(
  path: pathlib.Path, make: Callable[[], Arrays], *, mapped: bool = False
) -> Arrays:
  """Returns the arrays stored at `path`, or makes and stores them.

  The file is a zip of `.npy` files; its checksums reveal damage, and a damaged
  file is made again.

  Args:
    path: The file, `.npz`. Its name must tell all that the arrays depend on.
    make: Makes the arrays.
    mapped: Map the file into memory, read-only, instead of reading it, so that
      unused parts are not read. Then only sizes are checked, not checksums.

  Returns:
    The arrays by name.
  """
  read = _map if mapped else _read
  try:
    return read(path)
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
  return read(path) if mapped else arrays


def _read(path: pathlib.Path) -> Arrays:
  # A damaged file that np.load opened itself would be left open.
  with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
    return dict(arrays)


def _map(path: pathlib.Path) -> Arrays:
  """The arrays of an uncompressed `.npz` file, mapped."""
  arrays = {}
  with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
    for info in archive.infolist():
      if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename}: is compressed")
      # Opening checks the member's own header, which is then read again to find
      # where the data begins.
      with archive.open(info):
        pass
      file.seek(info.header_offset + _LENGTHS_AT)
      file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
      begin = file.tell()
      version = np.lib.format.read_magic(file)
      if version != (1, 0):
        raise ValueError(f"{info.filename}: is of version {version}")
      shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
      size = file.tell() - begin + math.prod(shape) * dtype.itemsize
      if dtype.hasobject or fortran or size != info.file_size:
        raise ValueError(f"{info.filename}: is not what its header says")
      # A plain array view: JAX does not know subclasses of arrays.
      arrays[info.filename.removesuffix(".npy")] = np.asarray(
        np.memmap(path, dtype, "r", file.tell(), shape)
      )
  return arrays


def _write(path, arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  # Written under another name, then renamed: a reader never sees half a file.
  handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
  try:
    with os.fdopen(handle, "wb") as file:
      np.savez(file, **arrays)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
