"""Settings from files: Python with a `get_config()`, JSON or TOML."""

import contextlib
import difflib
import importlib.util
import os
import pathlib
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quped_jax import checks, paths, reading


def load(given: str) -> dict[str, Any]:
  """What a config file holds: settings, or a comparison.

  Args:
    given: path of a `.json` or `.toml` file, or of a `.py` file, perhaps with
      `:VARIANT`. In Python, `get_config()` or `get_config(VARIANT)` returns a
      mapping, or anything with a method `to_dict()`.

  Raises:
    ValueError: no such file, or one that holds anything else.
  """
  name, variant = _divided(given)
  path = paths.given("config", name)
  if not path.is_file():
    raise ValueError(f"config={name!r}: must be a file{_near(path)}")
  if path.suffix == ".py":
    return _of_python(path, variant)
  if variant:
    raise ValueError(
      f"config={given!r}: must have no variant, {variant!r}: only a .py file "
      "has variants"
    )
  if path.suffix not in _READERS:
    raise ValueError(f"config={name!r}: must be a .py, .json or .toml file")
  with reading.naming(f"config={name!r}", f"a {path.suffix} file of settings"):
    values = _READERS[path.suffix](path)
    if not isinstance(values, dict):
      raise ValueError(f"it holds a {type(values).__name__}")
  return values


def _read_toml(path: pathlib.Path) -> dict[str, Any]:
  return tomllib.loads(reading.read_text(path))


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
  ".json": reading.read_json,
  ".toml": _read_toml,
}


def _divided(given: str) -> tuple[str, str]:
  """The path, and the variant after a colon."""
  if os.path.exists(given):
    return given, ""
  path, _, variant = given.rpartition(":")
  return (path, variant) if path else (given, "")


def _near(path: pathlib.Path) -> str:
  """The files there are, for one that does not exist."""
  suffixes = (".py", *_READERS)
  there = [
    x
    for x in sorted(path.parent.glob("[!_]*"))
    if x.suffix in suffixes and x.is_file()
  ]
  near = difflib.get_close_matches(path.name, [x.name for x in there], n=1)
  if near:
    return f"; did you mean {str(path.with_name(near[0]))!r}?"
  return f"; there are {', '.join(map(str, there))}" if there else ""


def _of_python(path: pathlib.Path, variant: str) -> dict[str, Any]:
  spec = importlib.util.spec_from_file_location("quped_config", path)
  assert spec is not None and spec.loader is not None  # As of any .py file.
  module = importlib.util.module_from_spec(spec)
  with _naming(path), _current_folder():
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise ValueError("must define get_config()")
    made = module.get_config(*[variant] if variant else [])
  values = made.to_dict() if hasattr(made, "to_dict") else made
  if not isinstance(values, Mapping):
    raise ValueError(
      f"config={str(path)!r}: get_config() must return a dict, or what has "
      f"to_dict(); it returns {checks.shown(made)}"
    )
  return dict(values)


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
  """Lets a config file import what lies in the current folder."""
  here = os.getcwd()
  sys.path.append(here)
  try:
    yield
  finally:
    sys.path.remove(here)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  """Makes a ValueError that names the file of whatever its code raises."""
  try:
    yield
  except Exception as error:
    line = line_of(error, path)
    what = traceback.format_exception_only(error)[-1].strip()
    said = f"fails at line {line}: {what}" if line else str(error)
    raise ValueError(f"config={str(path)!r}: {said}") from error


def line_of(error: Exception, path: str | os.PathLike) -> int | None:
  """The line of a config file at which it failed; None if it did not.

  Args:
    error: that was raised when the file was run.
    path: of the file.
  """
  name = pathlib.Path(path).name
  if isinstance(error, SyntaxError) and error.filename:
    return error.lineno if pathlib.Path(error.filename).name == name else None
  frames = traceback.extract_tb(error.__traceback__)
  lines = [f.lineno for f in frames if pathlib.Path(f.filename).name == name]
  return lines[-1] if lines else None
