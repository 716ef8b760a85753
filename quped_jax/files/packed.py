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

A file may also hold the arrays of a network that has no name, and say no more
of it than which of them are quantized: `nameless`. docs/model-files.md says all
of this so that a file can be read without this library, as `numpy_reader` does.
"""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from quped_jax import checks, paths, reading
from quped_jax.data import arrays as arrays_lib
from quped_jax.files import codec, container, description, nameless
from quped_jax.files import format as format_lib
from quped_jax.files import tensors as tensors_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.info import ModelInfo
from quped_jax.models import Model
from quped_jax.short_repr import short_repr


class PackedModel(NamedTuple):
  """A model as read from a file.

  Attributes:
    info: its description; `info.model` is "" if the file names no network.
    params: its parameters, a tree of numpy arrays. If the file names no
      network, the tree is one of dicts, in which positions in a list have the
      names "0", "1", ...
    stats: its batch-norm statistics, likewise.
    mean: float32, subtracted from raw inputs.
    std: float32, what they are then divided by.
    codebooks: the levels of `params`, a tree of `Codebook` of numpy arrays,
      `optax.MaskedNode()` for what is not quantized. If the file names a
      network, they are the levels that some weight has.

  Examples:
    See `save_packed`, which writes the file that `load_packed` makes one of.

    >>> qj.PackedModel._fields
    ('info', 'params', 'stats', 'mean', 'std', 'codebooks')
  """

  info: ModelInfo
  params: Any
  stats: Any
  mean: np.ndarray
  std: np.ndarray
  codebooks: Any

  __repr__ = short_repr

  def model(self) -> Model:
    """The network.

    Raises:
      ValueError: the file names none.
    """
    return self.info.create()

  def predict(self, inputs: Any, batch_size: int = 500) -> np.ndarray:
    """Logits of raw samples, as in their dataset: not normalised.

    Args:
      inputs: `[samples, ...]` real numbers, at least one sample.
      batch_size: samples seen at once; memory depends on it.

    Returns:
      float32 `[samples, classes]`.

    Raises:
      ValueError: a file that names no network; inputs of another shape or
        type, or that are not finite.
    """
    model, logits = self.model(), []
    batch_size = checks.whole("batch_size", batch_size, 1)
    inputs = arrays_lib.real_array("inputs", inputs)
    shape = self.info.input_shape
    if inputs.shape[1:] != shape or not len(inputs):
      raise ValueError(
        f"inputs.shape={inputs.shape}: must be [samples, "
        f"{', '.join(map(str, shape))}], at least one sample, for this model"
      )
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
  stats: Any = None,
  info: ModelInfo | None = None,
  *,
  codebooks: Any = None,
  mean: np.ndarray | float = 0.0,
  std: np.ndarray | float = 1.0,
) -> None:
  """Writes a model as a packed file.

  With `info`, the file says by which network the model is run. Without, it
  holds arrays alone, of any network, at the levels of their codebooks.

  Args:
    path: of the file, which is replaced as a whole, or not at all.
    params: tree of parameters. With `info`, those that are quantized must have
      no more distinct values than levels at their bits, see `info.bits`, per
      tensor or per channel. Without, it may be any tree of arrays, such as that
      of a flax module.
    stats: tree of statistics; None for none.
    info: what the model is; None for a network that is not known by name.
    codebooks: without `info`, a tree of codebooks as `init_codebooks` makes it
      of `params`. Every weight that has a codebook is stored as its nearest
      level. None if nothing is quantized.
    mean: subtracted from raw inputs before the model sees them; with `info`,
      broadcastable to one sample.
    std: what they are then divided by.

  Raises:
    ValueError: parameters that are not those of the architecture, or that have
      more levels than the bits allow; codebooks that are not those of the
      parameters; a file that cannot be written.

  Examples:
    >>> params = {"kernel": jax.random.normal(jax.random.key(0), (64, 32))}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=2)
    >>> qj.save_packed("own.safetensors", params, codebooks=codebooks)
    >>> len(np.unique(qj.load_packed("own.safetensors").params["kernel"]))
    4

    A model with a name is also one that runs:

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
  stats = {} if stats is None else stats
  if info is None:
    tensors, quantized = nameless.pack(params, stats, codebooks)
    about = description.describe_nameless(quantized)
  elif codebooks is not None:
    raise ValueError(
      "codebooks: must be left out with an info; save what "
      "hard_quantize_tree(params, codebooks) returns"
    )
  else:
    plan = format_lib.make_plan(info)
    tensors = _tensors(params, stats, info, plan)
    about = description.describe(info, plan)
  shape = info.input_shape if info else None
  tensors |= format_lib.make_scale(mean, std, shape)
  container.write(path, container.encode(tensors, about))


def _tensors(
  params: Any, stats: Any, info: ModelInfo, plan: format_lib.Plan
) -> dict[str, np.ndarray]:
  """A model's tensors as they are stored, without mean and std."""
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
  return tensors


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
  about, file, kinds = opened.about, opened.tensors, opened.tensors.kinds
  if description.is_nameless(about):
    return _parse_nameless(opened)
  info = description.read_info(about)
  plan = format_lib.plan_of_file(info, file.size, kinds)
  format_lib.check_scale_kinds(kinds, info.input_shape)
  format_lib.check_kinds(
    format_lib.packed_kinds(info, plan), format_lib.without_scales(kinds)
  )
  description.check_description(about, info, plan)
  arrays = container.read(opened)
  mean, std = (arrays.pop(name) for name in format_lib.SCALES)
  format_lib.make_scale(mean, std, info.input_shape)
  shapes, codebooks = plan.named(), {}
  for name in plan.quantized:
    planes, levels = (arrays.pop(f"{name}.{x}") for x in ("planes", "levels"))
    arrays[name] = codec.unpack(planes, levels, shapes[name].shape)
    codebooks[name] = codec.codebook(levels)
  params, stats = weights_lib.from_named(arrays, plan.params, plan.stats)
  marks = {name: codebooks.get(name, optax.MaskedNode()) for name in arrays}
  levels, _ = weights_lib.from_named(marks, plan.params, {})
  return PackedModel(info, params, stats, mean, std, levels)


def _parse_nameless(opened: container.Container) -> PackedModel:
  kinds = opened.tensors.kinds
  format_lib.check_scale_kinds(kinds, None)
  quantized = nameless.check(
    opened.about[description.QUANTIZED], format_lib.without_scales(kinds)
  )
  arrays = container.read(opened)
  mean, std = (arrays.pop(name) for name in format_lib.SCALES)
  format_lib.make_scale(mean, std, None)
  params, stats, codebooks = nameless.unpack(arrays, quantized)
  return PackedModel(nameless.INFO, params, stats, mean, std, codebooks)
