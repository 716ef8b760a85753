"""Which tensors a packed file must have, given what it says of its model."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import models as models_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.info import ModelInfo
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree

MEAN, STD = "inputs/mean", "inputs/std"


class Plan(NamedTuple):
  """The tensors of a model: their shapes and types.

  Attributes:
    params: tree of its parameters.
    stats: tree of its statistics.
    quantized: PATHs of the packed tensors.
  """

  params: Any
  stats: Any
  quantized: frozenset[str]

  def named(self) -> dict[str, Any]:
    """All of them by PATH."""
    return weights_lib.named(self.params, self.stats)


def make_plan(info: ModelInfo) -> Plan:
  """Makes the plan from the architecture alone; nothing is allocated."""
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
  return Plan(params, stats, quantized)


def plan_of_file(info: ModelInfo, size: int) -> Plan:
  """`make_plan` for what a file of this size says of its model."""
  most = 8 * size  # Each unit of a width has a weight, of at least one bit.
  entries = [info.num_classes]
  for value in info.options.values():
    entries += value if isinstance(value, tuple) else (value,)
  for entry in entries:
    if isinstance(entry, int) and abs(entry) > most:
      raise ValueError(f"{entry}: must be at most {most} in a file of its size")
  models_lib.get_factory(info.model)
  try:
    return make_plan(info)
  except Exception as error:
    # Nonsensical options can fail anywhere in a network.
    raise ValueError(
      f"model={info.model!r}: must be made of options={dict(info.options)}, "
      f"num_classes={info.num_classes}, input_shape={info.input_shape}: {error}"
    ) from error


def kind_of(x: Any) -> tuple[str, tuple[int, ...]]:
  """Type and shape of an array as safetensors states them."""
  dtype = np.dtype(x.dtype)
  if dtype not in weights_lib.TYPES:
    raise ValueError(
      f"dtype={dtype}: must be one of {', '.join(weights_lib.TYPES)}"
    )
  return weights_lib.TYPES[dtype], tuple(x.shape)


def check_kinds(want: Mapping[str, Any], have: Mapping[str, Any]) -> None:
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


def packed_kinds(info: ModelInfo, plan: Plan) -> dict[str, Any]:
  """Type and shape of each tensor in the file, except mean and std."""
  kinds = {}
  for name, like in plan.named().items():
    if name not in plan.quantized:
      kinds[name] = kind_of(like)
      continue
    channels = like.shape[-1:] if info.granularity == "channel" else ()
    planes = (info.bits, -(-math.prod(like.shape) // 8))
    kinds[f"{name}.planes"] = weights_lib.TYPES[np.dtype(np.uint8)], planes
    kinds[f"{name}.levels"] = kind_of(like)[0], (*channels, 2**info.bits)
  return kinds


def make_scale(
  mean: Any, std: Any, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """Mean and std by name, checked to fit samples of this shape."""
  scale = {MEAN: np.asarray(mean), STD: np.asarray(std)}
  for name, value in scale.items():
    # NumPy's own check fails with more than 32 axes.
    pairs = zip(value.shape[::-1], shape[::-1], strict=False)
    fits = value.ndim <= len(shape) and all(n in (1, m) for n, m in pairs)
    if not fits:
      raise ValueError(
        f"{name!r}.shape={value.shape}: must broadcast to one sample, {shape}"
      )
    scale[name] = value = value.astype(np.float32, order="C")
    if not np.isfinite(value).all():
      raise ValueError(f"{name!r}: must be finite")
  if not (scale[STD] > 0).all():
    raise ValueError(f"{STD!r}: must be positive")
  return scale
