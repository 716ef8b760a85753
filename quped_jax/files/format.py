"""Which tensors a packed file must have, given what it says of its model."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import models as models_lib
from quped_jax import reading
from quped_jax.files import tensors as tensors_lib
from quped_jax.files import weights as weights_lib
from quped_jax.files.info import LAYERS, ModelInfo, layers_of
from quped_jax.models import Model
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree

MEAN, STD = SCALES = "inputs/mean", "inputs/std"

_PLANES, _LEVELS = ".planes", ".levels"
# So few layers are traced within a moment: of networks here, and of those that
# are registered, whose layers may share their tensors.
_FEW_LAYERS, _FEW_SHARED = 4, 32


class Plan(NamedTuple):
  """The tensors of a model: their shapes and types.

  Attributes:
    params: tree of its parameters.
    stats: tree of its statistics.
    quantized: {PATH of a packed tensor: its bits}.
  """

  params: Any
  stats: Any
  quantized: dict[str, int]

  def named(self) -> dict[str, Any]:
    """All of them by PATH."""
    return weights_lib.named(self.params, self.stats)

  def described(self) -> dict[str, dict[str, Any]]:
    """{PATH of a packed tensor: its bits and shape}, as JSON values."""
    shapes = self.named()
    return {
      name: {"bits": bits, "shape": list(shapes[name].shape)}
      for name, bits in self.quantized.items()
    }


def make_plan(info: ModelInfo) -> Plan:
  """Makes the plan from the architecture alone; nothing is allocated."""
  model = info.create()
  params, stats = _shapes(model, info.input_shape)
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  paths = [codebook_tree.path_name(path) for path, _ in leaves]
  bits = {}
  if info.bits != codebook_lib.FULL_PRECISION:
    bits = {x: info.bits_of(x) for x in paths if model.is_quantized(x)}
  quantized = {
    f"params/{path}": b
    for path, b in bits.items()
    if b != codebook_lib.FULL_PRECISION
  }
  return Plan(params, stats, quantized)


# A run that saves the models of many clients traces their network once.
@functools.lru_cache(maxsize=16)
def _shapes(model: Model, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
  """Parameters and statistics of a network, without values."""
  inputs = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), inputs)


def plan_of_file(info: ModelInfo, size: int, names: Collection[str]) -> Plan:
  """`make_plan` for what a file says of its model.

  Tracing a network takes time for each of its layers, and it is only done where
  the file has as many tensors as they need.

  Args:
    info: what it says.
    size: its bytes.
    names: of its tensors.
  """
  most = 8 * size  # Each unit of a width has a weight, of at least one bit.
  entries = [info.num_classes]
  networks = [info, info.back] if info.back else [info]
  for value in itertools.chain(*(x.options.values() for x in networks)):
    entries += value if isinstance(value, tuple) else (value,)
  for entry in entries:
    if isinstance(entry, int) and abs(entry) > most:
      raise ValueError(f"{entry}: must be at most {most} in a file of its size")
  for network in networks:
    models_lib.get_factory(network.model)
  try:
    check_layers(info, names)
    plan = make_plan(info)
  except Exception as error:
    # Nonsensical options can fail anywhere in a network.
    back = f", back={reading.shown(info.back)}" if info.back else ""
    raise ValueError(
      f"model={info.model!r}: must be made of options={dict(info.options)}, "
      f"num_classes={info.num_classes}, input_shape={info.input_shape}{back}: "
      f"{error}"
    ) from error
  shapes = plan.named().values()
  tensors_lib.check_memory(
    sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shapes)
  )
  return plan


def check_layers(info: ModelInfo, names: Collection[str]) -> None:
  """Raises a ValueError if there are too few tensors for the layers.

  Args:
    info: the description.
    names: of the tensors in the file.
  """
  layers, built_in = layers_of(info.options), models_lib.is_built_in(info.model)
  further = layers_of(info.back.options) if info.back else 0
  if layers + further <= (_FEW_LAYERS if built_in else _FEW_SHARED):
    return
  have = sum(not name.endswith(_LEVELS) for name in names if name != MEAN)
  have -= STD in names
  least = layers
  if built_in and info.options.get(LAYERS) == layers:
    # The layers of these are all alike.
    one, two = (
      len(
        make_plan(dataclasses.replace(info, options=options, back=None)).named()
      )
      for options in ({**info.options, LAYERS: n} for n in (1, 2))
    )
    least = one + (layers - 1) * (two - one)
  least += further
  if have < least:
    raise ValueError(
      f"{layers + further} layers must have {least} tensors at least; "
      f"there are {have}"
    )


def check_kinds(
  want: Mapping[str, tensors_lib.Kind], have: Mapping[str, tensors_lib.Kind]
) -> None:
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


def packed_kinds(info: ModelInfo, plan: Plan) -> dict[str, tensors_lib.Kind]:
  """Type and shape of each tensor in the file, except mean and std."""
  kinds = {}
  for name, like in plan.named().items():
    if name not in plan.quantized:
      kinds[name] = tensors_lib.kind_of(like)
      continue
    bits = plan.quantized[name]
    channels = like.shape[-1:] if info.granularity == "channel" else ()
    planes = (bits, -(-math.prod(like.shape) // 8))
    kinds[name + _PLANES] = tensors_lib.TYPES[np.dtype(np.uint8)], planes
    kinds[name + _LEVELS] = (
      tensors_lib.kind_of(like)[0],
      (*channels, 2**bits),
    )
  return kinds


def without_scales(kinds: Mapping[str, Any]) -> dict[str, Any]:
  """What is said by name, without mean and std."""
  return {name: kind for name, kind in kinds.items() if name not in SCALES}


def check_scale_kinds(
  kinds: Mapping[str, tensors_lib.Kind], shape: tuple[int, ...] | None
) -> None:
  """Raises a ValueError unless mean and std are float32 and fit samples.

  Args:
    kinds: of all tensors.
    shape: of a sample; None if it is not known.
  """
  for name in (MEAN, STD):
    dtype, own = kinds.get(name, ("", ()))
    if dtype != "F32":
      raise ValueError(f"{name!r}: must be there, of type F32")
    _check_fits(name, own, shape)


def make_scale(
  mean: Any, std: Any, shape: tuple[int, ...] | None
) -> dict[str, np.ndarray]:
  """Mean and std by name, checked to fit samples of this shape, if any."""
  scale = {MEAN: np.asarray(mean), STD: np.asarray(std)}
  for name, value in scale.items():
    _check_fits(name, value.shape, shape)
    scale[name] = value = value.astype(np.float32, order="C")
    if not np.isfinite(value).all():
      raise ValueError(f"{name!r}: must be finite")
  if not (scale[STD] > 0).all():
    raise ValueError(f"{STD!r}: must be positive")
  return scale


def _check_fits(
  name: str, own: tuple[int, ...], shape: tuple[int, ...] | None
) -> None:
  if shape is None:
    return
  # NumPy's own check fails with more than 32 axes.
  pairs = zip(own[::-1], shape[::-1], strict=False)
  fits = len(own) <= len(shape) and all(n in (1, m) for n, m in pairs)
  if not fits:
    raise ValueError(
      f"{name!r}.shape={own}: must broadcast to one sample, {shape}"
    )
