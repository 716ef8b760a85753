"""Changes of settings: in a line, and as the name of a folder."""

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
