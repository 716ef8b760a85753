"""The bytes of a packed file: its header, its checksum, reading and writing.

The file is a safetensors file, whose header is JSON and holds a JSON text of
ours. That text begins with the SHA-256 of the file, taken with zeros in the
checksum's place.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_KEY = "quped_jax"  # The name of our text in the metadata.

# The checksum in the header, which is JSON with our JSON in a string.
_DIGEST = re.compile(rb'\{\\"sha256\\":\\"([0-9a-f]{64})\\"')
_NO_DIGEST = b"0" * 64

_LENGTH_BYTES = 8  # The length of the header, which comes first.
# Headers of the networks here take up to 20 KB; parsing one takes some 30 times
# its size in memory.
_MAX_HEADER = 2**20


def encode(
  tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> bytearray:
  """A file's bytes, with its checksum in place.

  Args:
    tensors: by name, in C order.
    about: JSON values by name, which become the metadata.
  """
  text = json.dumps(
    {"sha256": _NO_DIGEST.decode(), **about},
    separators=(",", ":"),
    allow_nan=False,
  )
  data = bytearray(safetensors.numpy.save(dict(tensors), {_KEY: text}))
  seal(data)
  return data


def seal(data: bytearray) -> None:
  """Writes the checksum of a file's bytes into its place among them.

  Raises:
    ValueError: bytes without a place for a checksum.
  """
  at = _find_digest(data)
  data[at : at + len(_NO_DIGEST)] = _digest(data, at)


def decode(data: bytes) -> tuple[dict[str, Any], Any]:
  """The inverse of `encode`.

  Returns:
    Tensors by name, each {"dtype", "shape", "data"}; and the JSON value in the
    metadata, whatever it is, including the checksum.

  Raises:
    ValueError: a file that is damaged, or of another format.
  """
  at = _find_digest(data)
  if _digest(data, at) != data[at : at + len(_NO_DIGEST)]:
    raise ValueError("it is damaged: its checksum is that of other bytes")
  try:
    tensors = dict(safetensors.deserialize(data))
  except safetensors.SafetensorError as error:
    raise ValueError(f"it is no safetensors file: {error}") from error
  return tensors, _metadata(data)


def _metadata(data: bytes) -> Any:
  header = _load_json(data[_LENGTH_BYTES : _header_end(data, len(data))])
  metadata = header.get("__metadata__")
  if not isinstance(metadata, dict):
    raise ValueError("it has no metadata")
  return _load_json(metadata.get(_KEY, "null"))


def write(path: str | os.PathLike, data: bytearray) -> None:
  """Writes a file so that nobody ever sees half of it, even after a crash."""
  part = f"{os.fspath(path)}.part"
  try:
    try:
      with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    except BaseException:
      if os.path.exists(part):
        os.unlink(part)
      raise
  except OSError as error:
    raise ValueError(
      f"path={os.fspath(path)!r}: must be a file that can be written "
      f"({error.strerror})"
    ) from error


def _header_end(start: bytes | bytearray, size: int) -> int:
  """Where the header ends, from the first bytes of a file of this size."""
  length = int.from_bytes(start[:_LENGTH_BYTES], "little")
  if _LENGTH_BYTES + length > size:
    raise ValueError(f"its header alone has more than its {size} bytes")
  if length > _MAX_HEADER:
    raise ValueError(f"its header has {length} bytes, more than {_MAX_HEADER}")
  return _LENGTH_BYTES + length


def read(path: str | os.PathLike) -> bytes:
  """The bytes of a file that may be one of ours."""
  status = os.stat(path)
  if not stat.S_ISREG(status.st_mode):
    raise ValueError("it is no regular file")
  with open(path, "rb") as file:
    _header_end(file.read(_LENGTH_BYTES), status.st_size)
    file.seek(0)
    return file.read()


def _find_digest(data: bytes | bytearray) -> int:
  """The position of the checksum in a file."""
  end = _header_end(data, len(data))
  found = [match.start(1) for match in _DIGEST.finditer(data, 0, end)]
  if len(found) != 1:
    raise ValueError("it has no checksum")
  return found[0]


def _digest(data: bytes | bytearray, at: int) -> bytes:
  """The checksum of a file whose own is at this place."""
  digest, view = hashlib.sha256(), memoryview(data)
  for part in (view[:at], _NO_DIGEST, view[at + len(_NO_DIGEST) :]):
    digest.update(part)
  return digest.hexdigest().encode()


def _load_json(text: str | bytes) -> Any:
  def refuse(name):
    raise ValueError(f"{name} is no number")

  try:
    return json.loads(text, parse_constant=refuse)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"its metadata is no JSON: {error}") from error
