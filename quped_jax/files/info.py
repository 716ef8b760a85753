"""The description in a packed file: the architecture, and whose model it is."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import checks, reading
from quped_jax import models as models_lib
from quped_jax.models import Model
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree

# Tracing a network takes time and memory per layer.
_MAX_LAYERS = 256
LAYERS = "blocks"  # The option that says how many layers there are.
# Every tensor is compared with them.
_MAX_PATTERNS = 1024
_NO_OPTIONS = (
  "conv",
  "dtype",
  "image_channels",
)  # They follow from other fields.
_MAX_INPUT = 2**31  # Numbers in a sample.


def _is_whole(value: Any, smallest: int) -> bool:
  whole = isinstance(value, int) and not isinstance(value, bool)
  return whole and value >= smallest


@dataclasses.dataclass(frozen=True)
class BackInfo:
  """The network that takes a model's features, in place of its last layer.

  Attributes:
    model: name of its architecture, see `quped_jax.models.create_model`.
    options: of the architecture, see `ModelInfo`.

  Raises:
    ValueError: a field is out of range; the message names it.

  Examples:
    >>> qj.BackInfo("mlp", {"features": (256, 256)}).model
    'mlp'
  """

  model: str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not isinstance(self.model, str):
      raise ValueError(f"back.model={self.model!r}: must be text")
    _check_options(self.options, "back.options")


@dataclasses.dataclass(frozen=True)
class ModelInfo:
  """The description of the model in a packed file.

  Attributes:
    model: name of the architecture, see `quped_jax.models.create_model`; "" for
      a network without a name, of which the other fields say nothing.
    num_classes: number of logits.
    input_shape: of one sample.
    options: of the architecture, such as `{"features": (64, 64)}`: numbers,
      text, or tuples of them.
    conv: how convolutions are computed.
    compute_dtype: of the network's passes, "float32" or "bfloat16".
    bits: precision of the quantized tensors, 1 to 8; 32 if there are none. Or
      precisions of single ones, by patterns of their paths, such as
      `{"hidden_1/*": 2, "*": 4}`, see `init_codebooks`: the first that matches
      counts.
    granularity: of their levels, "tensor" or "channel".
    dataset: the one it was trained on.
    method: the one that trained it.
    client: the client whose model it is; None for the model of all.
    variant: "personalized", "quantized", "global", or whatever its method calls
      it.
    back: the network that follows its features, as of FedGKT, whose server has
      the last layers; None for none.

  Raises:
    ValueError: a field is out of range; the message names it.

  Examples:
    >>> options = {"features": (64, 64)}
    >>> info = qj.ModelInfo("mlp", 10, (8, 8, 1), options, bits=2)
    >>> info.granularity
    'tensor'
  """

  model: str
  num_classes: int
  input_shape: tuple[int, ...]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  conv: str = "auto"
  compute_dtype: str = "float32"
  bits: int | Mapping[str, int] = codebook_lib.FULL_PRECISION
  granularity: str = "tensor"
  dataset: str = ""
  method: str = ""
  client: int | None = None
  variant: str = ""
  back: BackInfo | None = None

  def __post_init__(self):
    for field in (
      *("model", "conv", "compute_dtype", "granularity"),
      *("dataset", "method", "variant"),
    ):
      value = getattr(self, field)
      if not isinstance(value, str):
        raise ValueError(f"{field}={value!r}: must be text")
    named = bool(self.model)
    for field, smallest in (("num_classes", int(named)), ("client", 0)):
      value = getattr(self, field)
      if not _is_whole(value, smallest) and (field, value) != ("client", None):
        raise ValueError(
          f"{field}={value!r}: must be a whole number, at least {smallest}"
        )
    _check_bits(self.bits)
    checks.choice("granularity", self.granularity, codebook_lib.GRANULARITIES)
    checks.choice(
      "compute_dtype", self.compute_dtype, models_lib.COMPUTE_DTYPES
    )
    shape = self.input_shape
    if not (
      isinstance(shape, tuple)
      and all(_is_whole(n, 1) for n in shape)
      and bool(shape) == named
    ):
      raise ValueError(
        f"input_shape={shape!r}: must be a tuple of positive sizes"
      )
    if math.prod(shape) > _MAX_INPUT:
      raise ValueError(
        f"input_shape={shape!r}: must be of at most {_MAX_INPUT} numbers"
      )
    _check_options(self.options, "options")
    if not isinstance(self.back, BackInfo | None):
      raise ValueError(f"back={self.back!r}: must be a BackInfo, or None")

  def bits_of(self, path: str) -> int:
    """The precision of a tensor that the network quantizes.

    Args:
      path: such as `hidden_1/kernel`.

    Raises:
      ValueError: no pattern matches it.
    """
    return codebook_tree.bits_of(self.bits, path)

  def create(self) -> Model:
    """The network, without weights; the same object for the same fields.

    Raises:
      ValueError: no name or an unknown one, options that it does not take, or a
        registered network that does not fit samples or classes.
    """
    if not self.model:
      raise ValueError(
        "model='': must be the name of a network, so that it can be run; a "
        "file without one has `params`, `stats` and `codebooks`, for your own"
      )
    model = _create(
      # A name may be registered again.
      models_lib.get_factory(self.model),
      *(self.model, self.num_classes, self.input_shape),
      *(_as_text(self.options), self.conv, self.compute_dtype),
    )
    if self.back is None:
      return model
    return _stack(
      model,
      models_lib.get_factory(self.back.model),
      *(self.back.model, self.num_classes, _as_text(self.back.options)),
    )


def layers_of(options: Mapping[str, Any]) -> int:
  """How many layers a network's options ask for; 0 if they do not say."""
  numbers = [0]
  for name, value in options.items():
    if isinstance(value, tuple):
      numbers.append(len(value))
    elif name == LAYERS and _is_whole(value, 0):
      numbers.append(value)
  return max(numbers)


def _as_text(options: Mapping[str, Any]) -> str:
  """The options as text, in which 8 and 8.0 differ."""
  return json.dumps(dict(options), sort_keys=True)


def _check_bits(bits: Any) -> None:
  """Raises a ValueError unless bits are a precision, or some by pattern."""
  each = {"bits": bits}
  if isinstance(bits, Mapping):
    each = {f"bits[{pattern!r}]": value for pattern, value in bits.items()}
    if not 0 < len(bits) <= _MAX_PATTERNS or not all(
      isinstance(pattern, str) for pattern in bits
    ):
      raise ValueError(
        f"bits={reading.shown(bits)}: must be precisions by patterns of paths, "
        f"at least one and at most {_MAX_PATTERNS}"
      )
  for field, value in each.items():
    if not _is_whole(value, 1):
      raise ValueError(f"{field}={value!r}: must be a whole number, at least 1")
    codebook_lib.check_bits(value, field)


def _check_options(options: Any, field: str) -> None:
  """Raises a ValueError unless options are plain values by name."""
  if not isinstance(options, Mapping):
    raise ValueError(f"{field}={options!r}: must be a mapping")
  for name, value in options.items():
    entries = value if isinstance(value, tuple) else (value,)
    if not isinstance(name, str) or not all(
      isinstance(entry, (bool, int, float, str)) for entry in entries
    ):
      raise ValueError(
        f"{field}={{{name!r}: {value!r}}}: must be numbers, text, or tuples of "
        "them, by name"
      )
    if name in _NO_OPTIONS:
      raise ValueError(
        f"{field}={{{name!r}: {value!r}}}: must be without {name!r}, which "
        "follows from other fields"
      )
    layers = value if name == LAYERS else len(entries)
    if _is_whole(layers, _MAX_LAYERS + 1):
      raise ValueError(
        f"{field}[{name!r}]: must be of at most {_MAX_LAYERS} layers; got "
        f"{layers}"
      )


@functools.lru_cache(maxsize=16)
def _create(
  factory, name, num_classes, input_shape, options, conv, compute_dtype
) -> Model:
  del factory  # What the name stands for; only part of the cache's key.
  chosen = with_tuples(json.loads(options))
  if compute_dtype != "float32":
    if not models_lib.takes_dtype(name):
      raise ValueError(
        f"compute_dtype={compute_dtype!r}: must be 'float32' with "
        f"model={name!r}, which takes no dtype"
      )
    chosen["dtype"] = jnp.dtype(compute_dtype)
  model = models_lib.create_model(
    name,
    num_classes,
    image_channels=input_shape[-1] if len(input_shape) == 3 else None,
    conv=conv,
    **chosen,
  )
  if models_lib.is_built_in(name):
    return model
  inputs = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  return models_lib.settle(model, num_classes, inputs)


@functools.lru_cache(maxsize=16)
def _stack(front, factory, name, num_classes, options) -> Model:
  del factory  # As above.
  named = tuple(sorted(with_tuples(json.loads(options)).items()))
  return models_lib.stack(
    front, models_lib.NamedNetwork(name, num_classes, named)
  )


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
  """The values, with tuples again where JSON made lists of them."""
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in values.items()
  }
