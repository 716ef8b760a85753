"""The bytes of a packed file: its header, its checksum, reading and writing.

The file is a safetensors file, whose header is JSON and holds a JSON text of
ours. That text begins with the SHA-256 of the file, taken with zeros in the
checksum's place.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from quped_jax import paths, reading
from quped_jax.files import tensors as tensors_lib

_KEY = "quped_jax"  # The name of our text in the metadata.

# The checksum in the header, which is JSON with our JSON in a string.
_DIGEST = re.compile(rb'\{\\"sha256\\":\\"([0-9a-f]{64})\\"')
_NO_DIGEST = b"0" * 64


class Container(NamedTuple):
  """A packed file that is open.

  Attributes:
    tensors: the file.
    about: the JSON value in its metadata, whatever it is, including the
      checksum.
  """

  tensors: tensors_lib.TensorFile
  about: Any


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
  end = tensors_lib.header_end(data, len(data))
  at = _find_digest(bytes(data[:end]))
  digest = hashlib.sha256(_without_digest(bytes(data[:end]), at))
  digest.update(memoryview(data)[end:])
  data[at : at + len(_NO_DIGEST)] = digest.hexdigest().encode()


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Container]:
  """Opens a file that may be one of ours; reads its header and no more.

  Raises:
    OSError: it cannot be read.
    ValueError: it is none of ours, or of another size than its header says.
  """
  with tensors_lib.opened(path, _find_digest) as file:
    if _KEY not in file.metadata:
      raise ValueError("it has no metadata")
    with reading.placed("its metadata is no JSON"):
      about = reading.parse_json(file.metadata[_KEY])
    yield Container(file, about)


def read(container: Container) -> dict[str, np.ndarray]:
  """The tensors of a file, if all of its bytes are those that were written.

  Raises:
    OSError: it cannot be read.
    ValueError: it is damaged.
  """
  header = container.tensors.header
  at = _find_digest(header)
  digest = hashlib.sha256(_without_digest(header, at))
  arrays = tensors_lib.read(container.tensors, digest.update)
  if digest.hexdigest().encode() != header[at : at + len(_NO_DIGEST)]:
    raise ValueError("it is damaged: its checksum is that of other bytes")
  return arrays


def write(path: str | os.PathLike, data: bytearray) -> None:
  """Writes a file so that nobody ever sees half of it, even after a crash."""
  try:
    with paths.replacing(path) as file:
      file.write(data)
  except OSError as error:
    raise ValueError(
      f"path={os.fspath(path)!r}: must be a file that can be written "
      f"({error.strerror})"
    ) from error


def _find_digest(header: bytes) -> int:
  """The position of the checksum in a file's header."""
  found = [match.start(1) for match in _DIGEST.finditer(header)]
  if len(found) != 1:
    raise ValueError("it has no checksum")
  return found[0]


def _without_digest(header: bytes, at: int) -> bytes:
  return header[:at] + _NO_DIGEST + header[at + len(_NO_DIGEST) :]
