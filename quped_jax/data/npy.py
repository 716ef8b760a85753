"""Arrays in `.npy` files and in archives of them, mapped into memory.

A header says type and shape. Nothing is allocated for what it says: an array is
mapped, if the file is as large as it must be.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from quped_jax import paths, reading

_READERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}

# What zipfile raises for bytes that are no archive, or one that it cannot read.
_NO_ARCHIVE = (
  zipfile.BadZipFile,
  zlib.error,
  EOFError,
  struct.error,
  NotImplementedError,  # A way to compress that it does not know.
  RuntimeError,  # Encrypted.
  OverflowError,
)

# Where the header of a zip's member holds the lengths of its last two fields.
_LENGTHS_AT = 26
_BLOCK = 2**20


def load_npy(
  field: str, path: str | os.PathLike[str], *, mapped: bool = False
) -> np.ndarray:
  """Reads an array of numbers.

  Args:
    field: What errors call the path.
    path: The file, `.npy`.
    mapped: Map the file into memory, read-only, instead of reading it.

  Raises:
    FileNotFoundError: If the file is missing.
    ValueError: If it is not a `.npy` file of numbers.
  """
  name = f"{field}={os.fspath(path)!r}"
  path = paths.given(field, path)
  with reading.naming(name, "a .npy file of numbers", absent=True):
    # A pipe or a device is not opened: that may wait for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
      raise ValueError("it is no regular file")
    with open(path, "rb") as file:
      array = _mapped(file, os.fstat(file.fileno()).st_size)
    return array if mapped else np.array(array)


def map_archive(
  path: str | os.PathLike[str], *, checked: bool
) -> dict[str, np.ndarray]:
  """The arrays of an uncompressed `.npz` file by name, mapped.

  Args:
    path: The file.
    checked: Read all of it once, so that its checksums reveal damage.

  Raises:
    OSError: If it cannot be read.
    ValueError: If it is none, or is damaged.
  """
  arrays = {}
  try:
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
      for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in arrays or name == info.filename:
          raise ValueError(f"{reading.shown(info.filename)}: must be one array")
        file.seek(_begin(file, archive, info, checked))
        arrays[name] = _mapped(file, info.file_size)
  except _NO_ARCHIVE as error:
    raise ValueError(f"it is no archive of arrays: {error}") from error
  return arrays


def _begin(
  file: BinaryIO,
  archive: zipfile.ZipFile,
  info: zipfile.ZipInfo,
  checked: bool,
) -> int:
  """Where an archive's member begins in the file."""
  if info.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f"{info.filename}: is compressed")
  # Opening checks the member's own header, which is then read again to find
  # where the data begins; reading to the end checks its checksum.
  with archive.open(info) as member:
    while checked and member.read(_BLOCK):
      pass
  file.seek(info.header_offset + _LENGTHS_AT)
  file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
  return file.tell()


def _mapped(file: BinaryIO, size: int) -> np.ndarray:
  """The array that begins here in a file, mapped.

  Args:
    file: The file, open where the array's header begins.
    size: Bytes of header and array.
  """
  begin = file.tell()
  shape, fortran, dtype = _header(file)
  at = file.tell()
  nbytes = math.prod(shape) * dtype.itemsize
  there = os.fstat(file.fileno()).st_size
  if at + nbytes > there:
    raise ValueError(
      f"its header asks for {nbytes} bytes, the file has {there}"
    )
  if at - begin + nbytes != size:
    raise ValueError(
      f"it has {size} bytes, and {at - begin + nbytes} by header"
    )
  if not nbytes:
    return np.empty(shape, dtype)
  order = "F" if fortran else "C"
  # A plain array view: JAX does not know subclasses of arrays.
  return np.asarray(np.memmap(file, dtype, "r", at, shape, order))


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
  version = np.lib.format.read_magic(file)
  if version not in _READERS:
    raise ValueError(f"it is of version {version}, and not 1.0 or 2.0")
  try:
    shape, fortran, dtype = _READERS[version](file)
  except (ValueError, OSError):
    raise
  except Exception as error:
    # A header is parsed as Python, and can fail in any way that Python knows.
    raise ValueError(f"its header is none ({type(error).__name__})") from error
  if dtype.hasobject or dtype.itemsize == 0:
    raise ValueError(f"its type is {dtype}, and not one of numbers")
  if any(type(n) is not int or n < 0 for n in shape):
    raise ValueError(f"its shape is {shape}, and not one of whole numbers")
  return shape, bool(fortran), dtype
