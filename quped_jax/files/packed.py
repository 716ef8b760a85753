"""Packed model files: a network ready for use, as small as its levels allow.

A safetensors file with these tensors:

  PATH.planes: uint8 `[bits, ceil(n / 8)]` of a quantized tensor of n weights.
    Plane b has bit b of every weight's index, in C order, the first weight of
    eight in the highest bit of a byte.
  PATH.levels: what these indices refer to, `[2**bits]`, or `[channels,
    2**bits]` where every entry of the last axis has levels of its own. Levels
    that no weight has are copies of the last one that some weight has.
  PATH: any other parameter, or statistic, as it is.
  inputs/mean, inputs/std: float32, by which raw inputs are normalised.

A PATH begins with "params/" or "stats/". All else is one JSON text in the
file's metadata: a checksum, the versions of format and library, and the fields
of `ModelInfo`. The checksum is the SHA-256 of the file with zeros in its place,
so that damage is detected. A forged file is not trusted either: its
architecture must be one that is known by name, which determines what tensors
there must be, and nothing in the file is ever evaluated.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import checks, version
from quped_jax.files import codec, container
from quped_jax.files import format as format_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.info import ModelInfo, with_tuples
from quped_jax.models import Model

FORMAT = 1

_MAX_REASON = 300  # Characters of an error message.


class PackedModel(NamedTuple):
  """A model as read from a file.

  Attributes:
    info: its description.
    params: its parameters, a tree of numpy arrays.
    stats: its batch-norm statistics, likewise.
    mean: float32, subtracted from raw inputs.
    std: float32, what they are then divided by.
  """

  info: ModelInfo
  params: Any
  stats: Any
  mean: np.ndarray
  std: np.ndarray

  def model(self) -> Model:
    """The network."""
    return self.info.create()

  def predict(self, inputs: Any, batch_size: int = 500) -> np.ndarray:
    """Logits of raw samples, as in their dataset: not normalised.

    Args:
      inputs: `[samples, ...]` real numbers, at least one sample.
      batch_size: samples seen at once; memory depends on it.

    Returns:
      float32 `[samples, classes]`.

    Raises:
      ValueError: inputs of another shape or type, or that are not finite.
    """
    checks.at_least("batch_size", batch_size, 1)
    inputs, shape = np.asarray(inputs), self.info.input_shape
    if inputs.dtype.kind not in "buif":
      raise ValueError(f"inputs.dtype={inputs.dtype}: must be real numbers")
    if inputs.shape[1:] != shape or not len(inputs):
      raise ValueError(
        f"inputs.shape={inputs.shape}: must be [samples, "
        f"{', '.join(map(str, shape))}], at least one sample, for this model"
      )
    model, logits = self.model(), []
    size = min(batch_size, len(inputs))
    for begin in range(0, len(inputs), size):
      batch = inputs[begin : begin + size]
      if batch.dtype != np.uint8:
        # Too large numbers become infinite, which is found below.
        with np.errstate(over="ignore"):
          batch = batch.astype(np.float32)
      if not np.isfinite(batch).all():
        raise ValueError("inputs: must be finite, without NaN and infinity")
      missing = size - len(batch)
      if missing:  # One compiled program for all batches.
        batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
      outputs = _apply(
        model, self.params, self.stats, batch, self.mean, self.std
      )
      logits.append(np.asarray(outputs)[: size - missing])
    return np.concatenate(logits)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, stats, inputs, mean, std):
  return model.apply(params, stats, (inputs - mean) / std, False)[0]


def save_packed(
  path: str | os.PathLike,
  params: Any,
  stats: Any,
  info: ModelInfo,
  *,
  mean: np.ndarray | float = 0.0,
  std: np.ndarray | float = 1.0,
) -> None:
  """Writes a model as a packed file.

  Args:
    path: of the file, which is replaced as a whole, or not at all.
    params: tree of parameters. Those that are quantized at `info.bits` must
      have no more distinct values than levels, per tensor or per channel.
    stats: tree of statistics, perhaps empty.
    info: what the model is.
    mean: subtracted from raw inputs before the model sees them,
      broadcastable to one sample.
    std: what they are then divided by.

  Raises:
    ValueError: parameters that are not those of the architecture, or that have
      more levels than the bits allow; a file that cannot be written.
  """
  plan = format_lib.make_plan(info)
  tensors = weights_lib.as_stored(weights_lib.named(params, stats))
  format_lib.check_kinds(
    {name: format_lib.kind_of(x) for name, x in plan.named().items()},
    {name: format_lib.kind_of(x) for name, x in tensors.items()},
  )
  for name in plan.quantized:
    try:
      tensors[f"{name}.planes"], tensors[f"{name}.levels"] = codec.pack(
        tensors.pop(name), info.bits, info.granularity == "channel"
      )
    except ValueError as error:
      raise ValueError(f"{name!r}: {error}") from error
  tensors |= format_lib.make_scale(mean, std, info.input_shape)
  about = {
    "format": FORMAT,
    "library": version.__version__,
    **dataclasses.asdict(info),
  }
  container.write(path, container.encode(tensors, about))


def load_packed(path: str | os.PathLike) -> PackedModel:
  """Reads what `save_packed` wrote, bit for bit, or raises.

  Memory is allocated for what the file holds and no more, whatever it claims.

  Args:
    path: of the file.

  Raises:
    ValueError: no such file; a file that is damaged or of another kind; or an
      architecture that is unknown here, or has other tensors.
  """
  try:
    return _parse(container.read(path))
  except (OSError, ValueError) as error:
    reason = str(error)
    if len(reason) > _MAX_REASON:  # It may quote the file.
      reason = f"{reason[:_MAX_REASON]}..."
    raise ValueError(
      f"path={os.fspath(path)!r}: must be a packed model file ({reason})"
    ) from error


def _parse(data: bytes) -> PackedModel:
  tensors, about = container.decode(data)
  info = _read_info(about)
  plan = format_lib.plan_of_file(info, len(data))
  scale = {
    name: tensors.pop(name, {}) for name in (format_lib.MEAN, format_lib.STD)
  }
  format_lib.check_kinds(
    format_lib.packed_kinds(info, plan),
    {name: (x["dtype"], tuple(x["shape"])) for name, x in tensors.items()},
  )
  for name, x in scale.items():
    if x.get("dtype") != "F32":
      raise ValueError(f"{name!r}: must be there, of type F32")
  arrays = {}
  for name, like in plan.named().items():
    dtype = np.dtype(like.dtype)
    if name not in plan.quantized:
      arrays[name] = _array(tensors[name], dtype)
      continue
    planes = _array(tensors[f"{name}.planes"], np.dtype(np.uint8))
    levels = _array(tensors[f"{name}.levels"], dtype)
    arrays[name] = codec.unpack(planes, levels, like.shape)
  mean, std = (_array(x, np.dtype(np.float32)) for x in scale.values())
  format_lib.make_scale(mean, std, info.input_shape)
  params, stats = weights_lib.from_named(arrays, plan.params, plan.stats)
  return PackedModel(info, params, stats, mean, std)


def _array(tensor: Mapping[str, Any], dtype: np.dtype) -> np.ndarray:
  return np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])


def _read_info(about: Any) -> ModelInfo:
  """The model's description in a file's metadata."""
  if not isinstance(about, dict) or about.get("format") != FORMAT:
    raise ValueError(f"its format is not {FORMAT}, the one that is known here")
  fields = {field.name for field in dataclasses.fields(ModelInfo)}
  if set(about) != fields | {"sha256", "format", "library"}:
    raise ValueError(f"its metadata is not of {', '.join(sorted(fields))}")
  values = with_tuples({name: about[name] for name in fields})
  if isinstance(values["options"], dict):
    values["options"] = with_tuples(values["options"])
  return ModelInfo(**values)
