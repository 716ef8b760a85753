"""Safetensors files, of which no more is read than their headers justify.

Eight bytes say how long the header is, a JSON text with the type, shape and
place of each tensor; then come the tensors, one after the other. So a file's
size follows from its header: one of another size is refused before anything
else is read, and a tensor is read when its type and shape are those wanted.
Files are read and not mapped, so that one that shrinks meanwhile is an error
like any other.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from quped_jax import kinds as kinds_lib
from quped_jax import reading

# The names of types in safetensors.
TYPES = {
  np.dtype(bool): "BOOL",
  np.dtype(jnp.bfloat16): "BF16",
  **{np.dtype(f"f{size}"): f"F{8 * size}" for size in (2, 4, 8)},
  **{np.dtype(f"i{size}"): f"I{8 * size}" for size in (1, 2, 4, 8)},
  **{np.dtype(f"u{size}"): f"U{8 * size}" for size in (1, 2, 4, 8)},
}
_DTYPES = {name: dtype for dtype, name in TYPES.items()}
# Those that no tensor here has.
_OTHER_BYTES = {"C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
_BYTES = {x: d.itemsize for x, d in _DTYPES.items()} | _OTHER_BYTES

_LENGTH_BYTES = 8  # The length of the header, which comes first.
# Headers of the networks here take up to 600 KB; parsing one takes some 30
# times its size in memory.
_MAX_HEADER = 2**20
_METADATA = "__metadata__"

Kind = tuple[str, tuple[int, ...]]


class TensorFile(NamedTuple):
  """A file that is open.

  Attributes:
    file: the file.
    header: its first bytes, up to the tensors.
    size: bytes of the whole file.
    places: {tensor: where its bytes begin, after the header}, in that order.
    kinds: {tensor: type and shape}.
    metadata: texts by name.
  """

  file: io.BufferedReader
  header: bytes
  size: int
  places: dict[str, int]
  kinds: dict[str, Kind]
  metadata: dict[str, str]


@contextlib.contextmanager
def opened(
  path: str | os.PathLike, look: Callable[[bytes], Any] = lambda header: None
) -> Iterator[TensorFile]:
  """Opens a file and reads its header.

  Args:
    path: of the file.
    look: looks at the header's bytes before they are understood.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no safetensors file, or has another size than its header
      says, or one that this machine has no memory for.
  """
  # A pipe or a device is not opened: that may wait for ever.
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise ValueError("it is no regular file")
  with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    start = file.read(_LENGTH_BYTES)
    end = header_end(start, size)
    check_memory(size)
    header = start + file.read(end - _LENGTH_BYTES)
    look(header)
    try:
      places, kinds, metadata = _understood(header[_LENGTH_BYTES:], size - end)
    except ValueError as error:
      raise ValueError(f"it is no safetensors file: {error}") from error
    yield TensorFile(file, header, size, places, kinds, metadata)


def header_end(start: bytes | bytearray, size: int) -> int:
  """Where the header ends, from the first bytes of a file of this size."""
  length = int.from_bytes(start[:_LENGTH_BYTES], "little")
  if _LENGTH_BYTES + length > size:
    raise ValueError(f"its header alone has more than its {size} bytes")
  if length > _MAX_HEADER:
    raise ValueError(f"its header has {length} bytes, more than {_MAX_HEADER}")
  return _LENGTH_BYTES + length


def check_memory(size: int) -> None:
  """Raises a ValueError if this machine has not that much memory at all."""
  most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  if 0 < most < size:
    raise ValueError(
      f"it takes {size:,} bytes, and this machine has {most:,} of memory"
    )


_ENTRY = kinds_lib.record(
  {
    "dtype": kinds_lib.choice(*_BYTES),
    "shape": kinds_lib.entries(kinds_lib.whole(0, 2**62)),
    "data_offsets": kinds_lib.entries(kinds_lib.whole(0, 2**62)),
  },
  others=False,
)


def _understood(
  text: bytes, size: int
) -> tuple[dict[str, int], dict[str, Kind], dict[str, str]]:
  """The header's content, which must say where each of the bytes belongs."""
  header = kinds_lib.record({})("", reading.parse_json(text))
  metadata = kinds_lib.optional(kinds_lib.table(kinds_lib.text))(
    _METADATA, header.pop(_METADATA, None)
  )
  found = []
  for name, entry in kinds_lib.table(_ENTRY)("", header).items():
    begin, end = (*entry["data_offsets"], -1, -1)[:2]
    shape = tuple(entry["shape"])
    if len(entry["data_offsets"]) != 2 or (
      end - begin != math.prod(shape) * _BYTES[entry["dtype"]]
    ):
      raise ValueError(
        f"{reading.shown(name)}.data_offsets={entry['data_offsets']}: must be "
        "the two ends of a tensor of its type and shape"
      )
    found.append((begin, end, name, (entry["dtype"], shape)))
  found.sort(key=lambda x: x[:2])
  at = 0
  for begin, end, name, _ in found:
    if begin != at:
      raise ValueError(
        f"{reading.shown(name)}: must begin at {at}, where the tensor before "
        f"it ends, and not at {begin}"
      )
    at = end
  if at != size:
    raise ValueError(f"its tensors end at {at} of {size} bytes")
  places = {name: begin for begin, _, name, _ in found}
  return places, {name: kind for _, _, name, kind in found}, metadata or {}


def read(
  opened_file: TensorFile, look: Callable[[Any], Any] = lambda data: None
) -> dict[str, np.ndarray]:
  """All tensors, as they are.

  Args:
    opened_file: see `opened`; all of its types must be among `TYPES`.
    look: looks at the bytes of the tensors, one after the other.

  Raises:
    OSError, ValueError: they cannot be read.
  """
  file, arrays = opened_file.file, {}
  file.seek(len(opened_file.header))
  for name in opened_file.places:
    dtype, shape = opened_file.kinds[name]
    array = np.empty(shape, _DTYPES[dtype])
    data = array.reshape(-1).view(np.uint8)
    if array.size and file.readinto(data.data) != array.nbytes:
      raise ValueError("it has become shorter")
    look(data)
    arrays[name] = array
  return arrays


def kinds_of(arrays: Mapping[str, Any]) -> dict[str, Kind]:
  """Types and shapes of arrays as safetensors states them."""
  return {name: kind_of(x) for name, x in arrays.items()}


def kind_of(x: Any) -> Kind:
  """Type and shape of an array as safetensors states them."""
  dtype = np.dtype(x.dtype)
  if dtype not in TYPES:
    raise ValueError(
      f"dtype={dtype}: must be one of {', '.join(TYPES.values())}"
    )
  return TYPES[dtype], tuple(x.shape)
