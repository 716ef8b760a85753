"""Changes of settings: in a line, as the name of a folder, flat and nested."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

# Characters of a folder's name.
_LONGEST = 120


def describe(changes: Mapping[str, Any]) -> str:
  """Changes of settings on one line: "seed=1 quped.lambda_p=0.5"."""
  return " ".join(f"{name}={_shown(value)}" for name, value in changes.items())


def folder_name(changes: Mapping[str, Any]) -> str:
  """A name for the folder of a run that differs so: "seed=1,steps=3"."""
  plain = describe(changes).replace(" ", ",")
  name = re.sub(r"[^A-Za-z0-9.,=_+-]", "-", plain)
  if name == plain and len(name) <= _LONGEST:
    return name
  # Others may come to the same letters.
  digest = hashlib.blake2b(plain.encode(), digest_size=4).hexdigest()
  return f"{name[:_LONGEST]}-{digest}"


def _shown(value: Any) -> str:
  if isinstance(value, tuple):
    return "-".join(map(_shown, value))
  return str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Turns {"quped": {"lambda_p": x}} into {"quped.lambda_p": x}."""
  result = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      result |= flatten(value, f"{prefix}{name}.")
    else:
      result[prefix + name] = value
  return result


def unflatten(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`, in the shape of overrides."""
  result: dict[str, Any] = {}
  for name, value in settings.items():
    method, _, option = name.rpartition(".")
    (result.setdefault(method, {}) if method else result)[option] = value
  return result
