"""What a packed file says of its model, as the JSON value in its metadata.

Each format has its fields, and a file has all of them and no others. Files of
earlier formats are read too: those of format 1 do not say bits and shapes of
single tensors nor activations, no model of format 1 or 2 is followed by another
network (`ModelInfo.back`), and only from format 4 on may a file hold the arrays
of a network that has no name.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from quped_jax import kinds as kinds_lib
from quped_jax import reading, version
from quped_jax.files import format as format_lib
from quped_jax.files.info import BackInfo, ModelInfo, with_tuples

FORMAT = 4
_FORMATS = (1, 2, 3, 4)  # Those that are read.

# What a file says besides the fields of `ModelInfo`.
_ALWAYS = {"sha256", "format", "library"}
QUANTIZED, _ACTIVATIONS = "quantized", "activations"
_ADDED = {1: set[str](), 2: {QUANTIZED, _ACTIVATIONS}}
_ADDED[3] = _ADDED[4] = _ADDED[2]
# Of its fields, those that earlier formats do not have.
_LATER = {1: {"back"}, 2: {"back"}, 3: set[str](), 4: set[str]()}
# All that is said of a network without a name.
_NAMELESS = _ALWAYS | {"model", QUANTIZED}


def describe(info: ModelInfo, plan: format_lib.Plan) -> dict[str, Any]:
  """What is written of a network that is known by name."""
  return {
    "format": FORMAT,
    "library": version.__version__,
    **dataclasses.asdict(info),
    QUANTIZED: plan.described(),
    _ACTIVATIONS: list(info.create().activations),
  }


def describe_nameless(quantized: Mapping[str, Any]) -> dict[str, Any]:
  """What is written of arrays alone.

  Args:
    quantized: {PATH of a packed tensor: JSON values about it}.
  """
  return {
    "format": FORMAT,
    "library": version.__version__,
    "model": None,
    QUANTIZED: dict(quantized),
  }


def is_nameless(about: Any) -> bool:
  """Whether a file holds the arrays of a network without a name.

  Raises:
    ValueError: no format that is known here, or other fields than its own.
  """
  if _number(about) < 4 or about.get("model", "") is not None:
    return False
  if set(about) != _NAMELESS:
    raise ValueError(f"its metadata is not of {', '.join(sorted(_NAMELESS))}")
  return True


def check_description(
  about: Mapping[str, Any], info: ModelInfo, plan: format_lib.Plan
) -> None:
  """Raises a ValueError if what a file says of tensors is not so."""
  if QUANTIZED in about and not _same(about[QUANTIZED], plan.described()):
    raise ValueError(
      f"{QUANTIZED}={reading.shown(about[QUANTIZED])}: must be the bits and "
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


def read_info(about: Any) -> ModelInfo:
  """The model's description in a file's metadata."""
  number = _number(about)
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


def _number(about: Any) -> int:
  """The format of a file, by its metadata."""
  known = f"{', '.join(map(str, _FORMATS[:-1]))} or {FORMAT}"
  if not isinstance(about, dict) or "format" not in about:
    raise ValueError(f"its format is not {known}, those that are known here")
  number = about["format"]
  if type(number) is not int or number not in _FORMATS:
    raise ValueError(
      f"its format is {reading.shown(number)}, and not {known}, those that are "
      "known here"
    )
  return number
