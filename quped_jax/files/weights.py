"""Weights of a model as a safetensors file, to start another run from."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from quped_jax.quantization import codebook_tree

# The names of types in safetensors.
TYPES = {
  np.dtype(bool): "BOOL",
  np.dtype(jnp.bfloat16): "BF16",
  **{np.dtype(f"f{size}"): f"F{8 * size}" for size in (2, 4, 8)},
  **{np.dtype(f"i{size}"): f"I{8 * size}" for size in (1, 2, 4, 8)},
  **{np.dtype(f"u{size}"): f"U{8 * size}" for size in (1, 2, 4, 8)},
}

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
    path: of the file, which is replaced completely.
    params: tree of parameters.
    stats: tree of statistics, possibly empty.
  """
  tensors = as_stored(named(params, stats))
  part = f"{os.fspath(path)}.part"
  safetensors.numpy.save_file(tensors, part)
  os.replace(part, path)


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
  """
  field = f"warm_start={os.fspath(path)!r}"
  wanted = named(params, stats)
  try:
    with safetensors.safe_open(path, "np") as file:
      _check_header(field, file, wanted)
      tensors = {name: file.get_tensor(name) for name in wanted}
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{field}: must be a file of weights ({error})") from error
  converted = {
    name: _converted(f"{field}: {name!r}", tensor, wanted[name].dtype)
    for name, tensor in tensors.items()
  }
  return from_named(converted, params, stats)


def _check_header(field: str, file: Any, wanted: Mapping[str, Any]) -> None:
  """Raises a ValueError unless a file has the tensors that are wanted."""
  names = file.keys()
  found = {name: file.get_slice(name) for name in names}
  for name in sorted(wanted.keys() | found.keys()):
    want = tuple(wanted[name].shape) if name in wanted else None
    have = tuple(found[name].get_shape()) if name in found else None
    if want != have:
      raise ValueError(
        f"{field}: {name!r} must have shape {want} for this model; the file "
        f"has {have}"
      )
    dtype, own = found[name].get_dtype(), wanted[name].dtype
    floats = jnp.issubdtype(own, jnp.floating)
    allowed = _FLOATS if floats else (TYPES.get(np.dtype(own), str(own)),)
    if dtype not in allowed:
      raise ValueError(
        f"{field}: {name!r} must be of type {' or '.join(allowed)}; the file "
        f"has {dtype}"
      )


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
