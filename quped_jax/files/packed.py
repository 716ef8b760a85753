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
file's metadata, so that a file describes itself: a checksum, the versions of
format and library, the fields of `ModelInfo`, the bits and the shape of each
quantized tensor, and the network's activations. The checksum is the SHA-256 of
the file with zeros in its place, so that damage is detected. A forged file is
not trusted either: its architecture must be one that is known by name, which
determines what tensors there must be, and nothing in the file is ever
evaluated. Tensors are read once all that is said of them fits.

Files of earlier formats are read too: those of format 1 do not say bits and
shapes of single tensors nor activations, and no model of format 1 or 2 is
followed by another network (`ModelInfo.back`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import checks, paths, reading, version
from quped_jax import kinds as kinds_lib
from quped_jax.data import arrays as arrays_lib
from quped_jax.files import codec, container
from quped_jax.files import format as format_lib
from quped_jax.files import tensors as tensors_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.info import BackInfo, ModelInfo, with_tuples
from quped_jax.models import Model
from quped_jax.short_repr import short_repr

FORMAT = 3
_FORMATS = (1, 2, 3)  # Those that are read.

# What a file says besides the fields of `ModelInfo`.
_ALWAYS = {"sha256", "format", "library"}
_QUANTIZED, _ACTIVATIONS = "quantized", "activations"
_ADDED = {1: set[str](), 2: {_QUANTIZED, _ACTIVATIONS}}
_ADDED[3] = _ADDED[2]
# Of its fields, those that earlier formats do not have.
_LATER = {1: {"back"}, 2: {"back"}, 3: set[str]()}


class PackedModel(NamedTuple):
  """A model as read from a file.

  Attributes:
    info: its description.
    params: its parameters, a tree of numpy arrays.
    stats: its batch-norm statistics, likewise.
    mean: float32, subtracted from raw inputs.
    std: float32, what they are then divided by.

  Examples:
    See `save_packed`, which writes the file that `load_packed` makes one of.

    >>> qj.PackedModel._fields
    ('info', 'params', 'stats', 'mean', 'std')
  """

  info: ModelInfo
  params: Any
  stats: Any
  mean: np.ndarray
  std: np.ndarray

  __repr__ = short_repr

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
    batch_size = checks.whole("batch_size", batch_size, 1)
    inputs = arrays_lib.real_array("inputs", inputs)
    shape = self.info.input_shape
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
    params: tree of parameters. Those that are quantized must have no more
      distinct values than levels at their bits, see `info.bits`, per tensor or
      per channel.
    stats: tree of statistics, perhaps empty.
    info: what the model is.
    mean: subtracted from raw inputs before the model sees them,
      broadcastable to one sample.
    std: what they are then divided by.

  Raises:
    ValueError: parameters that are not those of the architecture, or that have
      more levels than the bits allow; a file that cannot be written.

  Examples:
    >>> model = qj.create_model("mlp", 3, features=(8, 8))
    >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> params = qj.quantize_once(params, model.is_quantized, bits=2)
    >>> info = qj.ModelInfo("mlp", 3, (4,), {"features": (8, 8)}, bits=2)
    >>> qj.save_packed("model.safetensors", params, stats, info)
    >>> packed = qj.load_packed("model.safetensors")
    >>> packed.predict(np.zeros((5, 4))).shape
    (5, 3)
  """
  path = paths.given("path", path)
  plan = format_lib.make_plan(info)
  tensors = weights_lib.as_stored(weights_lib.named(params, stats))
  format_lib.check_kinds(
    tensors_lib.kinds_of(plan.named()), tensors_lib.kinds_of(tensors)
  )
  for name, bits in plan.quantized.items():
    try:
      tensors[f"{name}.planes"], tensors[f"{name}.levels"] = codec.pack(
        tensors.pop(name), bits, info.granularity == "channel"
      )
    except ValueError as error:
      raise ValueError(f"{name!r}: {error}") from error
  format_lib.check_layers(info, tensors)
  tensors |= format_lib.make_scale(mean, std, info.input_shape)
  about = {
    "format": FORMAT,
    "library": version.__version__,
    **dataclasses.asdict(info),
    _QUANTIZED: plan.described(),
    _ACTIVATIONS: list(info.create().activations),
  }
  container.write(path, container.encode(tensors, about))


def load_packed(path: str | os.PathLike, *, field: str = "path") -> PackedModel:
  """Reads what `save_packed` wrote, bit for bit, or raises.

  Memory is allocated for what the file holds and no more, whatever it claims.

  Args:
    path: of the file.
    field: what errors call it.

  Returns:
    The model, with all its weights in full: `PackedModel.predict` runs it.

  Raises:
    ValueError: no such file; a file that is damaged or of another kind; or an
      architecture that is unknown here, or has other tensors.

  Examples:
    >>> model = qj.create_model("mlp", 3, features=(8, 8))
    >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> info = qj.ModelInfo("mlp", 3, (4,), {"features": (8, 8)})
    >>> qj.save_packed("full.safetensors", params, stats, info)
    >>> qj.load_packed("full.safetensors").params["first"]["kernel"].shape
    (4, 8)
  """
  file = f"{field}={os.fspath(path)!r}"
  path = paths.given(field, path)
  with (
    reading.naming(file, "a packed model file"),
    container.opened(path) as opened,
  ):
    return _parse(opened)


def _parse(opened: container.Container) -> PackedModel:
  about, file = opened.about, opened.tensors
  info = _read_info(about)
  kinds = file.kinds
  plan = format_lib.plan_of_file(info, file.size, kinds)
  format_lib.check_scale_kinds(kinds, info.input_shape)
  scales = (format_lib.MEAN, format_lib.STD)
  format_lib.check_kinds(
    format_lib.packed_kinds(info, plan),
    {name: kind for name, kind in kinds.items() if name not in scales},
  )
  _check_description(about, info, plan)
  arrays = container.read(opened)
  mean, std = (arrays.pop(name) for name in scales)
  format_lib.make_scale(mean, std, info.input_shape)
  shapes = plan.named()
  for name in plan.quantized:
    planes, levels = (arrays.pop(f"{name}.{x}") for x in ("planes", "levels"))
    arrays[name] = codec.unpack(planes, levels, shapes[name].shape)
  params, stats = weights_lib.from_named(arrays, plan.params, plan.stats)
  return PackedModel(info, params, stats, mean, std)


def _check_description(
  about: Mapping[str, Any], info: ModelInfo, plan: format_lib.Plan
) -> None:
  """Raises a ValueError if what a file says of tensors is not so."""
  if _QUANTIZED in about and not _same(about[_QUANTIZED], plan.described()):
    raise ValueError(
      f"{_QUANTIZED}={reading.shown(about[_QUANTIZED])}: must be the bits and "
      f"shapes of {', '.join(plan.quantized) or 'none'} for this architecture"
    )
  told, known = about.get(_ACTIVATIONS, []), list(info.create().activations)
  kinds_lib.entries(kinds_lib.text)(_ACTIVATIONS, told)
  # A network that is registered may not say them.
  if told and known and told != known:
    raise ValueError(
      f"{_ACTIVATIONS}={reading.shown(told)}: must be {known}, those of "
      f"model={info.model!r} here"
    )


def _same(first: Any, second: Any) -> bool:
  """Whether two JSON values are the same; true is not 1, nor is 1.0."""
  return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _read_info(about: Any) -> ModelInfo:
  """The model's description in a file's metadata."""
  known = f"{', '.join(map(str, _FORMATS[:-1]))} or {FORMAT}"
  if not isinstance(about, dict) or "format" not in about:
    raise ValueError(f"its format is not {known}, those that are known here")
  number = about["format"]
  if type(number) is not int or number not in _FORMATS:
    raise ValueError(
      f"its format is {reading.shown(number)}, and not {known}, those that are "
      "known here"
    )
  fields = {field.name for field in dataclasses.fields(ModelInfo)}
  fields -= _LATER[number]
  if set(about) != fields | _ALWAYS | _ADDED[number]:
    raise ValueError(f"its metadata is not of {', '.join(sorted(fields))}")
  values = with_tuples({name: about[name] for name in fields})
  if isinstance(values["options"], dict):
    values["options"] = with_tuples(values["options"])
  if values.get("back") is not None:
    values["back"] = _read_back(values["back"])
  if number == 1 and isinstance(values["bits"], dict):
    raise ValueError("bits: must be one number in format 1")
  return ModelInfo(**values)


def _read_back(value: Any) -> BackInfo:
  """The network that follows, in a file's metadata."""
  names = sorted(field.name for field in dataclasses.fields(BackInfo))
  if not isinstance(value, dict) or sorted(value) != names:
    raise ValueError(
      f"back={reading.shown(value)}: must be of {', '.join(names)}, or null"
    )
  if isinstance(value["options"], dict):
    value = {**value, "options": with_tuples(value["options"])}
  return BackInfo(**value)
