"""A hash of a function's code and of all that it uses of its author's.

The compiled code is read, not the source, so that it is that which runs, also
in a notebook; comments and formatting do not matter, but another version of
Python may give another hash. Followed are the functions, classes and constants
that the code names; of installed packages and the standard library only the
names count.
"""

import dataclasses
import functools
import hashlib
import re
import sys
import sysconfig
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_INSTALLED = tuple(sysconfig.get_paths().values())
# What Python or `dataclass` adds to a class, and what only people read.
_SKIPPED = {
  "__dict__",
  "__weakref__",
  "__doc__",
  "__module__",
  "__annotations__",
  "__firstlineno__",
  "__static_attributes__",
}


def code_hash(*values: Any) -> str:
  """A hash of functions, classes and constants.

  Args:
    *values: what is hashed, each with all that it uses.
  """
  walk = _Walk()
  for value in values:
    walk.visit(value)
  return walk.digest.hexdigest()


def _is_own(module: str) -> bool:
  """Whether a module is the author's: not installed, not Python's, not ours."""
  top = module.partition(".")[0]
  if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
    return module == "__main__"
  path = getattr(sys.modules.get(module), "__file__", None) or ""
  return not path.startswith(_INSTALLED)


def _codes(code: types.CodeType) -> list[types.CodeType]:
  """A function's code, and that of functions inside it."""
  inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
  return [code, *(x for one in inner for x in _codes(one))]


class _Walk:
  """Hashes values one after the other, each once."""

  def __init__(self):
    self.digest = hashlib.blake2b(digest_size=12)
    self._seen: dict[int, tuple[int, Any]] = {}

  def _text(self, *parts: Any) -> None:
    for part in parts:
      text = re.sub(r"0x[0-9a-fA-F]+", "0x", str(part))
      self.digest.update(f"{len(text)}:{text}".encode())

  def visit(self, value: Any) -> None:
    if isinstance(value, _PLAIN):
      self._text(type(value).__name__, repr(value))
      return
    if id(value) in self._seen:
      self._text("again", self._seen[id(value)][0])
      return
    # The value itself too, so that its number stays its own.
    self._seen[id(value)] = len(self._seen), value
    self._text(type(value).__name__)
    self._visit_new(value)

  def _visit_new(self, value: Any) -> None:
    if isinstance(value, types.FunctionType):
      self._function(value)
    elif isinstance(value, types.MethodType):
      self._all([value.__func__, value.__self__])
    elif isinstance(value, functools.partial):
      self._all([value.func, value.args, value.keywords])
    elif isinstance(value, types.ModuleType):
      self._text(value.__name__)
    elif isinstance(value, (tuple, list)):
      self._all(value)
    elif isinstance(value, dict):
      self._all([x for pair in value.items() for x in pair])
    elif isinstance(value, (set, frozenset)):
      self._text(*sorted(map(repr, value)))
    elif isinstance(value, jax.Array) and jnp.issubdtype(
      value.dtype, jax.dtypes.prng_key
    ):
      self._all([str(jax.random.key_impl(value)), jax.random.key_data(value)])
    elif isinstance(value, (np.ndarray, jax.Array)):
      x = np.asarray(value)
      self._text(x.shape, x.dtype, x.tobytes().hex())
    elif isinstance(value, type):
      self._class(value)
    elif isinstance(value, (staticmethod, classmethod)):
      self.visit(value.__func__)
    elif isinstance(value, property):
      self._all([value.fget, value.fset, value.fdel])
    elif callable(getattr(value, "__wrapped__", None)):
      self.visit(value.__wrapped__)
    elif _is_own(type(value).__module__):
      self.visit(type(value))
      self.visit(getattr(value, "__dict__", {}))
    else:
      self._text(type(value).__module__, repr(value))

  def _all(self, values: Any) -> None:
    self._text(len(values))
    for value in values:
      self.visit(value)

  def _function(self, fn: types.FunctionType) -> None:
    self._text(fn.__module__, fn.__qualname__)
    cells = [_content(cell) for cell in fn.__closure__ or ()]
    self._all([fn.__defaults__, fn.__kwdefaults__, *cells])
    if not _is_own(fn.__module__ or ""):
      return
    for code in _codes(fn.__code__):
      self._code(code, fn.__globals__)

  def _code(self, code: types.CodeType, names: dict[str, Any]) -> None:
    self._text(code.co_code.hex(), code.co_argcount, code.co_flags)
    self._text(code.co_names, code.co_varnames, code.co_freevars)
    for constant in code.co_consts:
      if not isinstance(constant, types.CodeType):
        self.visit(constant)
    for name in code.co_names:
      if name not in names:
        continue
      self._text(name)
      self.visit(names[name])
      if isinstance(names[name], types.ModuleType):
        self._attributes(names[name], code.co_names)

  def _attributes(self, module: types.ModuleType, names: Any) -> None:
    """What code may use of a module of the author's."""
    if _is_own(module.__name__):
      for name in names:
        if name in vars(module):
          self.visit(vars(module)[name])

  def _class(self, cls: type) -> None:
    self._text(cls.__module__, cls.__qualname__)
    if not _is_own(cls.__module__):
      return
    self._all(cls.__bases__)
    made = dataclasses.is_dataclass(cls)
    for name, value in sorted(vars(cls).items()):
      if name in _SKIPPED or (made and name == "__dataclass_fields__"):
        continue
      if made and _is_generated(value):
        continue
      self._text(name)
      self.visit(value)


def _is_generated(value: Any) -> bool:
  """Whether `dataclass` wrote a function."""
  code = getattr(value, "__code__", None)
  return code is not None and code.co_filename == "<string>"


def _content(cell: types.CellType) -> Any:
  try:
    return cell.cell_contents
  except ValueError:  # It is not filled yet.
    return None
