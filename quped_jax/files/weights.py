"""Weights of a model as a safetensors file, to start another run from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from quped_jax import paths, reading
from quped_jax.files import tensors as tensors_lib
from quped_jax.quantization import codebook_tree

# Those in which weights are read, whatever the model's own is.
_FLOATS = ("F16", "BF16", "F32", "F64")


def named(params: Any, stats: Any) -> dict[str, Any]:
  """Arrays, or shapes, by paths such as "params/first/kernel"."""
  tree = {"params": params, "stats": stats}
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {codebook_tree.path_name(path): leaf for path, leaf in leaves}


def as_stored(tree: Any) -> Any:
  """Arrays in host memory, in the C order that safetensors requires."""
  return jax.tree.map(lambda x: np.asarray(x, order="C"), jax.device_get(tree))


def save_weights(path: str | os.PathLike, params: Any, stats: Any) -> None:
  """Writes parameters and batch-norm statistics, named by their paths.

  Args:
    path: of the file, which is replaced as a whole, or not at all.
    params: tree of parameters.
    stats: tree of statistics, possibly empty.

  Raises:
    ValueError: a path that cannot be one of a file.
    OSError: the file cannot be written.

  Examples:
    >>> qj.save_weights("weights.safetensors", {"kernel": jnp.ones(3)}, {})
    >>> params, stats = qj.load_weights(
    ...   "weights.safetensors", {"kernel": jnp.zeros(3)}, {}
    ... )
    >>> print(params["kernel"])
    [1. 1. 1.]
  """
  tensors = as_stored(named(params, stats))
  with paths.replacing(paths.given("path", path)) as file:
    file.write(safetensors.numpy.save(tensors))


def load_weights(
  path: str | os.PathLike, params: Any, stats: Any
) -> tuple[Any, Any]:
  """Reads what `save_weights` wrote, or another file with the same tensors.

  Args:
    path: of the file. Floating-point numbers may be of 16, 32 or 64 bits,
      whatever the result has.
    params: tree whose structure, shapes and types the result has.
    stats: likewise.

  Returns:
    (params, stats) of numpy arrays.

  Raises:
    ValueError: no such file, not a safetensors file, one with tensors of other
      names, shapes or types, or with numbers that are not finite.

  Examples:
    >>> qj.save_weights("start.safetensors", {"kernel": jnp.ones(3)}, {})
    >>> like = {"kernel": jax.ShapeDtypeStruct((3,), jnp.float32)}
    >>> qj.load_weights("start.safetensors", like, {})[0]["kernel"].dtype
    dtype('float32')
  """
  field = f"warm_start={os.fspath(path)!r}"
  wanted = named(params, stats)
  given = paths.given("warm_start", path)
  with (
    reading.naming(field, "a file of weights"),
    tensors_lib.opened(given) as file,
  ):
    mistake = _mistake(file.kinds, wanted)
    tensors = {} if mistake else tensors_lib.read(file)
  if mistake:
    raise ValueError(f"{field}: {mistake}")
  converted = {
    name: _converted(f"{field}: {name!r}", tensor, wanted[name].dtype)
    for name, tensor in tensors.items()
  }
  return from_named(converted, params, stats)


def _mistake(
  found: Mapping[str, tensors_lib.Kind], wanted: Mapping[str, Any]
) -> str:
  """Which tensor a file has otherwise than it is wanted; "" for none."""
  for name in sorted(wanted.keys() | found.keys()):
    want = tuple(wanted[name].shape) if name in wanted else None
    dtype, have = found.get(name, ("", None))
    if want != have:
      return (
        f"{reading.shown(name)} must have shape {want} for this model; the "
        f"file has {have}"
      )
    own = wanted[name].dtype
    floats = jnp.issubdtype(own, jnp.floating)
    known = tensors_lib.TYPES.get(np.dtype(own), str(own))
    allowed = _FLOATS if floats else (known,)
    if dtype not in allowed:
      return (
        f"{name!r} must be of type {' or '.join(allowed)}; the file has {dtype}"
      )
  return ""


def _converted(field: str, tensor: np.ndarray, dtype: Any) -> np.ndarray:
  """A tensor in a model's own type, which must hold its numbers."""
  with np.errstate(over="ignore"):
    result = tensor.astype(dtype)
  wrong = ~np.isfinite(result)
  if wrong.any():
    raise ValueError(
      f"{field} must hold finite numbers of type {np.dtype(dtype)}; the file "
      f"has {tensor[wrong][0]}"
    )
  return result


def from_named(
  tensors: Mapping[str, Any], params: Any, stats: Any
) -> tuple[Any, Any]:
  """The inverse of `named`, with the structure of these trees."""
  tree = jax.tree_util.tree_map_with_path(
    lambda path, _: tensors[codebook_tree.path_name(path)],
    {"params": params, "stats": stats},
  )
  return tree["params"], tree["stats"]
