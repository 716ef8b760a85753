"""Packed files of networks that have no name: arrays and their codebooks.

The tensors are those of any packed file (see `packed`), of any tree of arrays.
No architecture says what they have to be: the file's own words on quantized
tensors must fit its tensors, and no more memory is taken than these justify.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
import optax

from quped_jax import kinds as kinds_lib
from quped_jax import reading
from quped_jax.files import codec
from quped_jax.files import tensors as tensors_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.info import ModelInfo
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree
from quped_jax.quantization.codebook import Codebook

INFO = ModelInfo("", 0, ())  # What is known of such a network.

_ROOTS = ("params", "stats")
_MOST_DEPTH = 32  # Trees in trees; recursion has an end.
_MOST_BYTES = 8  # Of a number.

_DESCRIBED = kinds_lib.table(
  kinds_lib.record(
    {
      "bits": kinds_lib.whole(1, codebook_lib.MAX_BITS),
      "shape": kinds_lib.entries(kinds_lib.whole(0, 2**62)),
      "levels": kinds_lib.whole(1, 2**codebook_lib.MAX_BITS),
    },
    others=False,
  )
)


def pack(
  params: Any, stats: Any, codebooks: Any
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """A file's tensors, and what it says of those that are quantized.

  Args:
    params: tree of arrays.
    stats: likewise, perhaps empty.
    codebooks: tree of codebooks, of which `params` has the structure; None for
      no quantized parameters.

  Raises:
    ValueError: what is no array, names that cannot be told apart, or a codebook
      that is not one of a parameter; the message names it.
  """
  leaves = weights_lib.named(params, stats)
  if len(leaves) < len(jax.tree.leaves((params, stats))):
    raise ValueError("params: must have a path of its own for each array")
  _check_names(leaves)
  _check_keys(params, stats)
  given, tensors, quantized = _codebooks(codebooks), {}, {}
  for name, leaf in leaves.items():
    array, book = _array(name, leaf), given.pop(name, None)
    count = 0 if book is None else _count(name, array, book)
    if book is None or not count:
      tensors[name] = array
      continue
    try:
      packed = codec.pack_nearest(array, book)
    except ValueError as error:
      raise ValueError(f"{name!r}: {error}") from error
    bits, shape = len(packed.planes), list(array.shape)
    quantized[name] = {"bits": bits, "shape": shape, "levels": count}
    for field, part in packed._asdict().items():
      if f"{name}.{field}" in leaves:
        raise ValueError(
          f"'{name}.{field}': must have another name, as {name!r} is quantized"
        )
      tensors[f"{name}.{field}"] = part
  if given:
    raise ValueError(
      f"codebooks: must be of parameters; {next(iter(given))!r} is none of "
      f"{reading.shown(list(leaves))}"
    )
  return tensors, quantized


def check(
  described: Any, kinds: Mapping[str, tensors_lib.Kind]
) -> dict[str, Any]:
  """What a file says of its quantized tensors, if it has such tensors.

  Args:
    described: what it says, any JSON value.
    kinds: type and shape of each tensor in the file, except mean and std.

  Raises:
    ValueError: what the file says and what it has do not fit, or would take
      more memory than this machine has.
  """
  quantized = _DESCRIBED("quantized", described)
  raw = set(kinds)
  for name, entry in quantized.items():
    _check_packed(name, entry, kinds)
    raw -= {f"{name}.planes", f"{name}.levels"}
  for name in raw:
    if name in quantized or kinds[name][0] not in tensors_lib.TYPES.values():
      raise ValueError(
        f"{reading.shown(name)}: must not be there, of type {kinds[name][0]}"
      )
  _check_names([*raw, *quantized])
  tensors_lib.check_memory(
    sum(_MOST_BYTES * math.prod(x["shape"]) for x in quantized.values())
  )
  return quantized


def unpack(
  tensors: dict[str, np.ndarray], quantized: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
  """Parameters, statistics and codebooks, in dicts of dicts.

  Args:
    tensors: those of a file, except mean and std.
    quantized: what `check` returned for it.
  """
  arrays, codebooks = dict(tensors), {}
  for name, entry in quantized.items():
    planes, levels = (arrays.pop(f"{name}.{x}") for x in ("planes", "levels"))
    arrays[name] = codec.unpack(planes, levels, tuple(entry["shape"]))
    codebooks[name] = codec.codebook(levels, entry["levels"])
  tree = _nested(arrays)
  marks = {name: codebooks.get(name, optax.MaskedNode()) for name in arrays}
  return tree["params"], tree.get("stats", {}), _nested(marks)["params"]


def _check_packed(
  name: str, entry: Mapping[str, Any], kinds: Mapping[str, tensors_lib.Kind]
) -> None:
  """Raises a ValueError unless a quantized tensor is as the file says."""
  bits, shape = entry["bits"], entry["shape"]
  if bits != codec.bits_for(entry["levels"]):
    raise ValueError(
      f"quantized[{reading.shown(name)}].bits={bits}: must be those that "
      f"{entry['levels']} levels need"
    )
  tables = [(2**bits,), (*shape[-1:], 2**bits)]
  dtype, table = kinds.get(f"{name}.levels", ("", ()))
  planes = "U8", (bits, -(-math.prod(shape) // 8))
  if (
    kinds.get(f"{name}.planes") != planes
    or dtype not in tensors_lib.TYPES.values()
    or table not in tables
  ):
    raise ValueError(
      f"{reading.shown(name)}: must have planes {list(planes[1])} of type U8, "
      f"and levels {' or '.join(str(list(x)) for x in tables)}"
    )


def _codebooks(codebooks: Any) -> dict[str, Codebook]:
  """The codebooks of a tree, by the names of their parameters."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    {"params": codebooks}, is_leaf=codebook_tree.is_codebook
  )
  found = {codebook_tree.path_name(path): leaf for path, leaf in leaves}
  wrong = [x for x in found.values() if not codebook_tree.is_codebook(x)]
  if wrong:
    raise ValueError(
      "codebooks: must be a tree of codebooks, as init_codebooks makes; it has "
      f"a {type(wrong[0]).__name__}"
    )
  return {name: x for name, x in found.items() if isinstance(x, Codebook)}


def _array(name: str, leaf: Any) -> np.ndarray:
  """A leaf in host memory."""
  try:
    array = weights_lib.as_stored(leaf)
    tensors_lib.kind_of(array)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"{name!r}: must be an array of numbers ({error})"
    ) from error
  return array


def _count(name: str, array: np.ndarray, book: Codebook) -> int:
  """How many levels a tensor has; 0 for full precision."""
  channels = array.shape[-1:] if np.ndim(book.centers) > 1 else ()
  if np.shape(book.centers)[:-1] != channels:
    raise ValueError(
      f"codebooks[{name!r}].centers.shape={np.shape(book.centers)}: must be "
      f"[levels], or [channels, levels] with the last axis of {array.shape}"
    )
  counts = set(np.ravel(book.levels).tolist())
  most = min(2**codebook_lib.MAX_BITS, np.shape(book.centers)[-1])
  if len(counts) != 1 or not 0 <= min(counts) <= most:
    raise ValueError(
      f"codebooks[{name!r}].levels={sorted(counts)}: must be one number for "
      f"all channels, at most {most}"
    )
  return counts.pop()


def _check_keys(*trees: Any) -> None:
  """Raises a ValueError unless names in trees come back from a file as such."""
  for path, _ in jax.tree_util.tree_flatten_with_path(trees)[0]:
    for key in path:
      name = kinds_lib.text("params", codebook_tree.path_name((key,)))
      if "/" in name:
        raise ValueError(
          f"params={reading.shown(name)}: must have no / in its name, which "
          "would come back as a tree in a tree"
        )


def _check_names(names: Collection[str]) -> None:
  """Raises a ValueError unless each name is that of an array of one tree."""
  outer = set()
  for name in names:
    parts = name.split("/")
    if parts[0] not in _ROOTS or len(parts) > _MOST_DEPTH:
      raise ValueError(
        f"{reading.shown(name)}: must be a path in params or stats, of at most "
        f"{_MOST_DEPTH} parts"
      )
    outer |= {"/".join(parts[:n]) for n in range(1, len(parts))}
  both = outer.intersection(names)
  if both:
    raise ValueError(
      f"{reading.shown(min(both))}: must be an array, or a tree of arrays, but "
      "not both"
    )
  if "params" not in outer.union(names):
    raise ValueError("params: must hold at least one array")


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
  """Values in dicts of dicts, by their paths."""
  tree: dict[str, Any] = {}
  for name in sorted(named):
    *outer, last = name.split("/")
    inner = tree
    for part in outer:
      inner = inner.setdefault(part, {})
    inner[last] = named[name]
  return tree
