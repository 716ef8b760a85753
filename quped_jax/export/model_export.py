"""`export_model`: packed models as files that other programs run."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from quped_jax import checks, paths
from quped_jax.export import checked, stablehlo_file
from quped_jax.files.packed import PackedModel, load_packed

FORMATS = ("onnx", "stablehlo")


class Exported(NamedTuple):
  """An exported model.

  Attributes:
    path: of its file.
    size: bytes of the file.
    difference: of its logits and the library's, see `export_model`; None if it
      was not checked.

  Examples:
    See `export_model`, which returns one.

    >>> qj.Exported._fields
    ('path', 'size', 'difference')
  """

  path: pathlib.Path
  size: int
  difference: float | None


def export_model(
  model: PackedModel | str | os.PathLike,
  output: str | os.PathLike,
  format: str,
  *,
  check: bool = False,
) -> Exported:
  """Writes a packed model as a file that runs without this library.

  The file is a function of samples as they are in the dataset, float32 `[batch,
  ...]` with a batch of any size, and returns logits, float32 `[batch,
  classes]`. It holds the weights, and normalises the samples.

  Args:
    model: a packed model, or the path of its file.
    output: path of the file, which is replaced as a whole, or not at all.
    format: "onnx", for this package's own networks: about as small as the
      packed file, computes in float32, needs the extra `export`. "stablehlo",
      for any network that is known by name: a program for
      `jax.export.deserialize`, with weights in full precision.
    check: whether the file is run on random samples beside the library.

  Returns:
    Where the file is, its size, and with `check` the largest difference of a
    logit from the library's, relative to the largest logit or to 1: at most
    1e-5, or 0.02 if the network computes in bfloat16.

  Raises:
    ValueError: a file that is no packed model or cannot be written, a network
      that cannot be exported in this format, or logits that differ by more.
    ImportError: for ONNX, the extra `export` is not installed.

  Examples:
    >>> model = qj.create_model("mlp", 3)
    >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> info = qj.ModelInfo("mlp", 3, (4,))
    >>> qj.save_packed("model.safetensors", params, stats, info)
    >>> done = qj.export_model("model.safetensors", "model.onnx", "onnx")
    >>> print(done.path)
    model.onnx
  """
  checks.choice("format", format, FORMATS)
  path = paths.given("output", output)
  if not isinstance(model, PackedModel):
    paths.check_other("output", path, model=model)
    model = load_packed(model, field="model")
  model.model()  # Of a network without a name nothing can be run.
  data = _encode(model, format)
  difference = checked.difference(model, format, data) if check else None
  try:
    with paths.replacing(path) as file:
      file.write(data)
  except OSError as error:
    raise ValueError(
      f"output={os.fspath(output)!r}: must be a file that can be written "
      f"({error.strerror})"
    ) from error
  return Exported(path, len(data), difference)


def _encode(model: PackedModel, format: str) -> bytes:
  if format == "stablehlo":
    return stablehlo_file.encode(model)
  try:
    import onnxruntime  # noqa: F401, to check what is exported.

    from quped_jax.export import onnx_file
  except ImportError as error:
    raise ImportError(
      "format='onnx': needs the packages onnx and onnxruntime, of the extra "
      "'export': pip install onnx onnxruntime"
    ) from error
  return onnx_file.encode(model)
