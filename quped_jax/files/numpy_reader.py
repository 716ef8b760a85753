"""Reads packed model files with NumPy alone.

It needs nothing else of quped_jax: copy it to where the model shall run.
`numpy_networks.py` has forward passes; docs/model-files.md describes the files.

    packed = numpy_reader.read("client_00012.safetensors")
    packed.params["hidden_1"]["kernel"]  # an array at its levels
"""

import hashlib
import json
import math
import os
import re
from typing import Any, NamedTuple

import numpy as np

_FORMATS = (2, 3, 4)  # Files of format 1 do not say the shapes of tensors.
_SIZES = [(kind, n) for kind in "FIU" for n in (1, 2, 4, 8)]
_TYPES = {f"{kind}{8 * n}": f"<{kind.lower()}{n}" for kind, n in _SIZES}
_TYPES |= {"BOOL": "?", "BF16": "<u2"}
_DIGEST = re.compile(rb'\{\\"sha256\\":\\"([0-9a-f]{64})\\"')


class Packed(NamedTuple):
  """What a file holds."""

  about: dict[str, Any]  # What it says of the model: about["num_classes"], ...
  params: Any  # Arrays in dicts of dicts; those of bfloat16 become float32.
  stats: Any  # Batch-norm statistics, likewise.
  mean: np.ndarray  # Samples are normalised: (samples - mean) / std.
  std: np.ndarray


def read(path: str | os.PathLike) -> Packed:
  """Reads a file; raises a ValueError if it is damaged or of another kind."""
  with open(path, "rb") as file:
    data = file.read()
  try:
    about, arrays = _tensors(data, 8 + int.from_bytes(data[:8], "little"))
    for name, entry in about["quantized"].items():
      planes, levels = (arrays.pop(f"{name}.{x}") for x in ("planes", "levels"))
      arrays[name] = _unpacked(planes, levels, entry["bits"], entry["shape"])
    mean, std = arrays.pop("inputs/mean"), arrays.pop("inputs/std")
    tree: dict[str, Any] = {"params": {}, "stats": {}}
    for name, array in arrays.items():
      *outer, last = name.split("/")
      inner = tree
      for part in outer:
        inner = inner.setdefault(part, {})
      inner[last] = array
  except Exception as error:  # A forged file can fail anywhere.
    what = f"path={os.fspath(path)!r}: must be a packed model file"
    raise ValueError(f"{what} ({error})") from error
  return Packed(about, tree["params"], tree["stats"], mean, std)


def _tensors(data: bytes, end: int) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a file says of its model, and its tensors, which follow the header."""
  found = list(_DIGEST.finditer(data[:end]))
  if len(found) != 1 or end > len(data):
    raise ValueError("it has no checksum, or is shorter than its header says")
  start, stop = found[0].span(1)
  zeroed = data[:start] + b"0" * 64 + data[stop:]
  if hashlib.sha256(zeroed).hexdigest().encode() != found[0][1]:
    raise ValueError("it is damaged: its checksum is that of other bytes")
  header = json.loads(data[8:end])
  about = json.loads(header.pop("__metadata__")["quped_jax"])
  if about["format"] not in _FORMATS:
    raise ValueError(f"its format is {about['format']}, none of {_FORMATS}")
  arrays, at = {}, 0
  for name, entry in sorted(header.items(), key=lambda x: x[1]["data_offsets"]):
    (begin, stop), dtype = entry["data_offsets"], entry["dtype"]
    array = np.frombuffer(data[end + begin : end + stop], _TYPES[dtype])
    if dtype == "BF16":
      array = (array.astype("<u4") << 16).view("<f4")
    if begin != at or array.size != math.prod(entry["shape"]):
      raise ValueError(f"{name!r} has other bytes than its type and shape say")
    arrays[name], at = array.reshape(entry["shape"]), stop
  if end + at != len(data):
    raise ValueError("it is longer than its tensors")
  return about, arrays


def _unpacked(planes, levels, bits: int, shape: list[int]) -> np.ndarray:
  """A tensor from its bit planes and the levels that its indices refer to."""
  count = math.prod(shape)
  if planes.shape != (bits, -(-count // 8)):
    raise ValueError(f"its planes have the shape {planes.shape}")
  index = np.zeros(count, np.uint8)
  for b, plane in enumerate(planes):
    index |= np.unpackbits(plane, count=count) << b
  if levels.ndim == 1:
    return levels[index].reshape(shape)
  index = index.reshape(-1, len(levels))  # Each channel has its own levels.
  return levels[np.arange(len(levels)), index].reshape(shape)
