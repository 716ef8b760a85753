"""Weights of a model as a safetensors file, to start another run from."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from quped_jax.quantization import codebook_tree


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
  """Reads what `save_weights` wrote.

  Args:
    path: of the file.
    params: tree whose structure and shapes the file must have.
    stats: likewise.

  Returns:
    (params, stats) of numpy arrays.

  Raises:
    ValueError: no such file, not a safetensors file, or one with other tensors.
  """
  try:
    tensors = safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f"warm_start={os.fspath(path)!r}: must be a file of weights ({error})"
    ) from error
  wanted = named(params, stats)
  for name in sorted(wanted.keys() | tensors.keys()):
    want = wanted[name].shape if name in wanted else None
    have = tensors[name].shape if name in tensors else None
    if want != have:
      raise ValueError(
        f"warm_start={os.fspath(path)!r}: {name!r} must have shape {want} "
        f"for this model; the file has {have}"
      )
  return from_named(tensors, params, stats)


def from_named(
  tensors: Mapping[str, Any], params: Any, stats: Any
) -> tuple[Any, Any]:
  """The inverse of `named`, with the structure of these trees."""
  tree = jax.tree_util.tree_map_with_path(
    lambda path, _: tensors[codebook_tree.path_name(path)],
    {"params": params, "stats": stats},
  )
  return tree["params"], tree["stats"]
