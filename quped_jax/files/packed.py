"""Packed model files: a network to use, as small as its levels allow.

A safetensors file with these tensors:

  PATH.planes: uint8 `[bits, ceil(n / 8)]` of a quantized tensor of n weights.
    Plane b has bit b of every weight's index, in C order, the first weight of
    eight in the highest bit of a byte.
  PATH.levels: what these indices count, `[2**bits]`, or `[channels, 2**bits]`
    where every entry of the last axis has levels of its own. Levels that no
    weight has are copies of the last one that some weight has.
  PATH: any other parameter, or statistic, as it is.
  inputs/mean, inputs/std: float32, by which raw inputs are normalised.

A PATH begins with "params/" or "stats/". All else is one JSON text in the
file's metadata: a checksum, the versions of format and library, and the fields
of `ModelInfo`. The checksum is the SHA-256 of the file with zeros in its place,
so that a damaged file is known. A file made on purpose is not believed either:
its architecture must be one that is known by name, which says what tensors
there have to be, and nothing in it is ever evaluated.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from quped_jax import checks, version
from quped_jax import models as models_lib
from quped_jax.files import weights as weights_lib
from quped_jax.models import Model
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree

FORMAT = 1

_KEY = "quped_jax"  # Of our text in the metadata.
_MEAN, _STD = "inputs/mean", "inputs/std"

# The checksum in the header, which is JSON with our JSON in a string.
_DIGEST = re.compile(rb'\{\\"sha256\\":\\"([0-9a-f]{64})\\"')
_NO_DIGEST = b"0" * 64

_LENGTH_BYTES = 8  # The length of the header, which comes first.
# Headers of the networks here take up to 20 KB; to parse one takes some 30
# times its size.
_MAX_HEADER = 2**20
# Tracing a network takes time and memory for every layer.
_MAX_LAYERS = 256
_LAYERS = "blocks"  # The option that says how many layers there are.
_NO_OPTIONS = ("conv", "dtype", "image_channels")  # They follow from fields.
_MAX_INPUT = 2**31  # Numbers in a sample.
_MAX_REASON = 300  # Characters of an error.

# What safetensors calls the types.
_TYPES = {
  np.dtype(bool): "BOOL",
  np.dtype(jnp.bfloat16): "BF16",
  **{np.dtype(f"f{size}"): f"F{8 * size}" for size in (2, 4, 8)},
  **{np.dtype(f"i{size}"): f"I{8 * size}" for size in (1, 2, 4, 8)},
  **{np.dtype(f"u{size}"): f"U{8 * size}" for size in (1, 2, 4, 8)},
}


def _is_whole(value: Any, smallest: int) -> bool:
  whole = isinstance(value, int) and not isinstance(value, bool)
  return whole and value >= smallest


@dataclasses.dataclass(frozen=True)
class ModelInfo:
  """What a file says of its model.

  Attributes:
    model: name of the architecture, see `quped_jax.models.create_model`.
    num_classes: number of logits.
    input_shape: of one sample.
    options: of the architecture, such as `{"features": (64, 64)}`: numbers,
      text, or tuples of them.
    conv: how convolutions are computed.
    compute_dtype: of the network's passes, "float32" or "bfloat16".
    bits: precision of the quantized tensors, 1 to 8; 32 if there are none.
    granularity: of their levels, "tensor" or "channel".
    dataset: that it was trained on.
    method: by which.
    client: whose model it is; None for that of all.
    variant: "personalized", "quantized" or "global".

  Raises:
    ValueError: a field that is out of range; names it.
  """

  model: str
  num_classes: int
  input_shape: tuple[int, ...]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  conv: str = "auto"
  compute_dtype: str = "float32"
  bits: int = codebook_lib.FULL_PRECISION
  granularity: str = "tensor"
  dataset: str = ""
  method: str = ""
  client: int | None = None
  variant: str = ""

  def __post_init__(self):
    for field in (
      *("model", "conv", "compute_dtype", "granularity"),
      *("dataset", "method", "variant"),
    ):
      value = getattr(self, field)
      if not isinstance(value, str):
        raise ValueError(f"{field}={value!r}: must be text")
    for field, smallest in (("num_classes", 1), ("bits", 1), ("client", 0)):
      value = getattr(self, field)
      if not _is_whole(value, smallest) and (field, value) != ("client", None):
        raise ValueError(
          f"{field}={value!r}: must be a whole number, at least {smallest}"
        )
    codebook_lib.check_bits(self.bits)
    checks.choice("granularity", self.granularity, codebook_lib.GRANULARITIES)
    checks.choice(
      "compute_dtype", self.compute_dtype, models_lib.COMPUTE_DTYPES
    )
    shape = self.input_shape
    if not (
      isinstance(shape, tuple) and shape and all(_is_whole(n, 1) for n in shape)
    ):
      raise ValueError(
        f"input_shape={shape!r}: must be a tuple of positive sizes"
      )
    if math.prod(shape) > _MAX_INPUT:
      raise ValueError(
        f"input_shape={shape!r}: must be of at most {_MAX_INPUT} numbers"
      )
    _check_options(self.options)

  def create(self) -> Model:
    """The network, without weights; the same object for the same fields.

    Raises:
      ValueError: an unknown name, or options that it does not take.
    """
    # As text, in which 8 and 8.0 differ.
    options = json.dumps(dict(self.options), sort_keys=True)
    return _create(
      # A name may be registered anew.
      models_lib.get_factory(self.model),
      *(self.model, self.num_classes, self.input_shape),
      *(options, self.conv, self.compute_dtype),
    )


def _check_options(options: Any) -> None:
  """Raises a ValueError unless options are plain values by name."""
  if not isinstance(options, Mapping):
    raise ValueError(f"options={options!r}: must be a mapping")
  for name, value in options.items():
    entries = value if isinstance(value, tuple) else (value,)
    if not isinstance(name, str) or not all(
      isinstance(entry, (bool, int, float, str)) for entry in entries
    ):
      raise ValueError(
        f"options={{{name!r}: {value!r}}}: must be numbers, text, or tuples of "
        "them, by name"
      )
    if name in _NO_OPTIONS:
      raise ValueError(
        f"options={{{name!r}: {value!r}}}: must be without {name!r}, which "
        "follows from other fields"
      )
    layers = value if name == _LAYERS else len(entries)
    if _is_whole(layers, _MAX_LAYERS + 1):
      raise ValueError(
        f"options[{name!r}]: must be of at most {_MAX_LAYERS} layers; got "
        f"{layers}"
      )


@functools.lru_cache(maxsize=16)
def _create(
  factory, name, num_classes, input_shape, options, conv, compute_dtype
) -> Model:
  del factory  # It is what the name stands for.
  chosen = _with_tuples(json.loads(options))
  if compute_dtype != "float32":
    if not models_lib.takes_dtype(name):
      raise ValueError(
        f"compute_dtype={compute_dtype!r}: must be 'float32' with "
        f"model={name!r}, which takes no dtype"
      )
    chosen["dtype"] = jnp.dtype(compute_dtype)
  return models_lib.create_model(
    name,
    num_classes,
    image_channels=input_shape[-1] if len(input_shape) == 3 else None,
    conv=conv,
    **chosen,
  )


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
  """The tuples among these values, which JSON made lists."""
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in values.items()
  }


class PackedModel(NamedTuple):
  """A model as a file has it.

  Attributes:
    info: what it is.
    params: its parameters, a tree of numpy arrays.
    stats: its batch-norm statistics, likewise.
    mean: float32, subtracted from raw inputs.
    std: float32, by which they are then divided.
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
    """Logits of samples as their dataset has them, not normalised.

    Args:
      inputs: `[samples, ...]` real numbers, at least one sample.
      batch_size: samples seen at once; memory depends on it.

    Returns:
      float32 `[samples, classes]`.

    Raises:
      ValueError: inputs of another shape or type, or such that are not finite.
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
        # What is too large becomes infinite, which is found below.
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


class _Plan(NamedTuple):
  """What tensors a model has, shapes and types.

  Attributes:
    params: tree of its parameters.
    stats: tree of its statistics.
    quantized: PATHs of those that are packed.
  """

  params: Any
  stats: Any
  quantized: frozenset[str]

  def named(self) -> dict[str, Any]:
    """By PATH."""
    return weights_lib.named(self.params, self.stats)


def _plan(info: ModelInfo) -> _Plan:
  """Follows from the architecture alone; nothing is allocated."""
  model = info.create()
  inputs = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
  params, stats = jax.eval_shape(model.init, jax.random.key(0), inputs)
  quantized = frozenset()
  if info.bits != codebook_lib.FULL_PRECISION:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    paths = [codebook_tree.path_name(path) for path, _ in leaves]
    quantized = frozenset(
      f"params/{path}" for path in paths if model.is_quantized(path)
    )
  return _Plan(params, stats, quantized)


def _kind(x: Any) -> tuple[str, tuple[int, ...]]:
  """Type and shape of an array as safetensors has them."""
  dtype = np.dtype(x.dtype)
  if dtype not in _TYPES:
    raise ValueError(f"dtype={dtype}: must be one of {', '.join(_TYPES)}")
  return _TYPES[dtype], tuple(x.shape)


def _check_kinds(want: Mapping[str, Any], have: Mapping[str, Any]) -> None:
  """Raises a ValueError unless names, types and shapes are the same."""

  def text(kinds, name):
    if name not in kinds:
      return "absent"
    dtype, shape = kinds[name]
    return f"{dtype} {list(shape)}"

  for name in sorted(want.keys() | have.keys()):
    if want.get(name) != have.get(name):
      raise ValueError(
        f"{name!r}: must be {text(want, name)} for this architecture; it is "
        f"{text(have, name)}"
      )


def _scale(
  mean: Any, std: Any, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """By name, what normalises samples of this shape, if it can."""
  scale = {_MEAN: np.asarray(mean), _STD: np.asarray(std)}
  for name, value in scale.items():
    # NumPy's own check fails with more axes than 32.
    pairs = zip(value.shape[::-1], shape[::-1], strict=False)
    fits = value.ndim <= len(shape) and all(n in (1, m) for n, m in pairs)
    if not fits:
      raise ValueError(
        f"{name!r}.shape={value.shape}: must broadcast to one sample, {shape}"
      )
    scale[name] = value = value.astype(np.float32, order="C")
    if not np.isfinite(value).all():
      raise ValueError(f"{name!r}: must be finite")
  if not (scale[_STD] > 0).all():
    raise ValueError(f"{_STD!r}: must be positive")
  return scale


def _pack(x: np.ndarray, bits: int, channelwise: bool):
  """Planes and levels of a tensor; a ValueError if its levels are too many."""
  # By their bits: minus zero is not zero, and NaN is itself.
  patterns = x.view(f"u{x.dtype.itemsize}")
  channels = x.shape[-1] if channelwise else 1
  rows = patterns.reshape(-1, channels).T
  index = np.empty(rows.shape, np.uint8)
  levels = np.empty((channels, 2**bits), patterns.dtype)
  for row, found, table in zip(rows, index, levels, strict=True):
    values, inverse = np.unique(row, return_inverse=True)
    if len(values) > 2**bits:
      raise ValueError(
        f"must have at most {2**bits} levels for bits={bits}; it has "
        f"{len(values)}"
      )
    found[:] = inverse
    table[: len(values)], table[len(values) :] = values, values[-1]
  stream = index.T.reshape(-1)
  planes = np.stack([np.packbits((stream >> b) & 1) for b in range(bits)])
  levels = levels.view(x.dtype)
  return planes, levels if channelwise else levels[0]


def _unpack(
  planes: np.ndarray, levels: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  """The tensor that `_pack` packed."""
  index = np.zeros(math.prod(shape), np.uint8)
  for b, plane in enumerate(planes):
    index |= np.unpackbits(plane, count=index.size) << b
  if levels.ndim == 1:
    return levels[index].reshape(shape)
  channels = np.arange(len(levels))
  return levels[channels, index.reshape(-1, len(levels))].reshape(shape)


def _packed_kinds(info: ModelInfo, plan: _Plan) -> dict[str, Any]:
  """Type and shape of each tensor in the file, but those of normalisation."""
  kinds = {}
  for name, like in plan.named().items():
    if name not in plan.quantized:
      kinds[name] = _kind(like)
      continue
    channels = like.shape[-1:] if info.granularity == "channel" else ()
    planes = (info.bits, -(-math.prod(like.shape) // 8))
    kinds[f"{name}.planes"] = _TYPES[np.dtype(np.uint8)], planes
    kinds[f"{name}.levels"] = _kind(like)[0], (*channels, 2**info.bits)
  return kinds


def _digest(data: bytes | bytearray, at: int) -> bytes:
  """The checksum of a file that has its own at this place."""
  digest, view = hashlib.sha256(), memoryview(data)
  for part in (view[:at], _NO_DIGEST, view[at + len(_NO_DIGEST) :]):
    digest.update(part)
  return digest.hexdigest().encode()


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
    params: tree of parameters. Those that are quantized at `info.bits` have no
      more distinct values than levels, each or in each channel.
    stats: tree of statistics, perhaps empty.
    info: what the model is.
    mean: subtracted from raw inputs before the model sees them,
      broadcastable to one sample.
    std: by which they are then divided.

  Raises:
    ValueError: parameters that are not those of the architecture, or of more
      levels than the bits allow; a file that cannot be written.
  """
  plan = _plan(info)
  tensors = weights_lib.as_stored(weights_lib.named(params, stats))
  _check_kinds(
    {name: _kind(x) for name, x in plan.named().items()},
    {name: _kind(x) for name, x in tensors.items()},
  )
  for name in plan.quantized:
    try:
      tensors[f"{name}.planes"], tensors[f"{name}.levels"] = _pack(
        tensors.pop(name), info.bits, info.granularity == "channel"
      )
    except ValueError as error:
      raise ValueError(f"{name!r}: {error}") from error
  tensors |= _scale(mean, std, info.input_shape)
  about = {
    "sha256": _NO_DIGEST.decode(),
    "format": FORMAT,
    "library": version.__version__,
    **dataclasses.asdict(info),
  }
  text = json.dumps(about, separators=(",", ":"), allow_nan=False)
  data = bytearray(safetensors.numpy.save(tensors, {_KEY: text}))
  at = _find_digest(data)
  data[at : at + len(_NO_DIGEST)] = _digest(data, at)
  _write(path, data)


def _write(path: str | os.PathLike, data: bytearray) -> None:
  """Writes a file so that nobody ever sees half of it, not after a crash."""
  part = f"{os.fspath(path)}.part"
  try:
    try:
      with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    except BaseException:
      if os.path.exists(part):
        os.unlink(part)
      raise
  except OSError as error:
    raise ValueError(
      f"path={os.fspath(path)!r}: must be a file that can be written "
      f"({error.strerror})"
    ) from error


def load_packed(path: str | os.PathLike) -> PackedModel:
  """Reads what `save_packed` wrote, bit for bit, or nothing.

  Memory is taken for what the file holds and no more, whatever it says.

  Args:
    path: of the file.

  Raises:
    ValueError: no such file; one that is damaged, or of another kind; or an
      architecture that is not known here, or has other tensors.
  """
  try:
    return _parse(_read(path))
  except (OSError, ValueError) as error:
    reason = str(error)
    if len(reason) > _MAX_REASON:  # It may quote the file.
      reason = f"{reason[:_MAX_REASON]}..."
    raise ValueError(
      f"path={os.fspath(path)!r}: must be a packed model file ({reason})"
    ) from error


def _header_end(start: bytes | bytearray, size: int) -> int:
  """Where the header of a file of this size ends, from its first bytes."""
  length = int.from_bytes(start[:_LENGTH_BYTES], "little")
  if _LENGTH_BYTES + length > size:
    raise ValueError(f"its header alone has more than its {size} bytes")
  if length > _MAX_HEADER:
    raise ValueError(f"its header has {length} bytes, more than {_MAX_HEADER}")
  return _LENGTH_BYTES + length


def _read(path: str | os.PathLike) -> bytes:
  """A file's bytes, if it may be one of ours."""
  status = os.stat(path)
  if not stat.S_ISREG(status.st_mode):
    raise ValueError("it is no regular file")
  with open(path, "rb") as file:
    _header_end(file.read(_LENGTH_BYTES), status.st_size)
    file.seek(0)
    return file.read()


def _find_digest(data: bytes | bytearray) -> int:
  """Where in a file its checksum is."""
  end = _header_end(data, len(data))
  found = [match.start(1) for match in _DIGEST.finditer(data, 0, end)]
  if len(found) != 1:
    raise ValueError("it has no checksum")
  return found[0]


def _parse(data: bytes) -> PackedModel:
  at = _find_digest(data)
  if _digest(data, at) != data[at : at + len(_NO_DIGEST)]:
    raise ValueError("it is damaged: its checksum is that of other bytes")
  try:
    tensors = dict(safetensors.deserialize(data))
  except safetensors.SafetensorError as error:
    raise ValueError(f"it is no safetensors file: {error}") from error
  info = _read_info(data)
  plan = _plan_of_file(info, len(data))
  scale = {name: tensors.pop(name, {}) for name in (_MEAN, _STD)}
  _check_kinds(
    _packed_kinds(info, plan),
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
    arrays[name] = _unpack(planes, levels, like.shape)
  mean, std = (_array(x, np.dtype(np.float32)) for x in scale.values())
  _scale(mean, std, info.input_shape)
  params, stats = weights_lib.from_named(arrays, plan.params, plan.stats)
  return PackedModel(info, params, stats, mean, std)


def _array(tensor: Mapping[str, Any], dtype: np.dtype) -> np.ndarray:
  return np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])


def _load_json(text: str | bytes) -> Any:
  def refuse(name):
    raise ValueError(f"{name} is no number")

  try:
    return json.loads(text, parse_constant=refuse)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"its metadata is no JSON: {error}") from error


def _read_info(data: bytes) -> ModelInfo:
  """What a file's metadata says."""
  header = _load_json(data[_LENGTH_BYTES : _header_end(data, len(data))])
  metadata = header.get("__metadata__")
  if not isinstance(metadata, dict):
    raise ValueError("it has no metadata")
  about = _load_json(metadata.get(_KEY, "null"))
  if not isinstance(about, dict) or about.get("format") != FORMAT:
    raise ValueError(f"its format is not {FORMAT}, the one that is known here")
  fields = {field.name for field in dataclasses.fields(ModelInfo)}
  if set(about) != fields | {"sha256", "format", "library"}:
    raise ValueError(f"its metadata is not of {', '.join(sorted(fields))}")
  values = _with_tuples({name: about[name] for name in fields})
  if isinstance(values["options"], dict):
    values["options"] = _with_tuples(values["options"])
  return ModelInfo(**values)


def _plan_of_file(info: ModelInfo, size: int) -> _Plan:
  """The `_plan` of what a file of this size says."""
  most = 8 * size  # A weight takes a bit at least, and a width has a weight.
  entries = [info.num_classes]
  for value in info.options.values():
    entries += value if isinstance(value, tuple) else (value,)
  for entry in entries:
    if isinstance(entry, int) and abs(entry) > most:
      raise ValueError(f"{entry}: must be at most {most} in a file of its size")
  models_lib.get_factory(info.model)
  try:
    return _plan(info)
  except Exception as error:
    # Options that nobody meant can fail anywhere in a network.
    raise ValueError(
      f"model={info.model!r}: must be made of options={dict(info.options)}, "
      f"num_classes={info.num_classes}, input_shape={info.input_shape}: {error}"
    ) from error
