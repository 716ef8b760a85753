"""A hash of an author's code, for methods that declare no version.

It is of source files, whole: those in which the given functions and classes are
written, and those of the author's own that they import, wherever in their text.
So every change of the code counts, comments too. Values that a function closes
over count as well. Code that is in no file, as in a notebook, is compared as it
was compiled, with the functions, classes and constants that it names.

A file counts as it was when it was first read here, which is when a method is
registered: that is the code that runs, whatever is saved later.

Installed packages do not count, but for that of the method, nor does this
library, whose version does.
"""

import ast
import collections
import dataclasses
import dis
import functools
import hashlib
import importlib.machinery
import importlib.util
import pathlib
import re
import site
import sys
import sysconfig
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_INSTALLED = {
  pathlib.Path(path).resolve()
  for path in (
    *(
      sysconfig.get_path(name)
      for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    *site.getsitepackages(),
    site.getusersitepackages(),
  )
}
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


def code_hash(*values: Any, own: Collection[str] = ()) -> str:
  """A hash of functions, classes and constants.

  Args:
    *values: what is hashed, each with all that it uses.
    own: packages whose files count although they are installed.
  """
  walk = _Walk(frozenset(own))
  for value in values:
    walk.visit(value)
  return walk.digest.hexdigest()


def package_of(value: Any) -> str:
  """The top package that a function, or what a partial one calls, is in."""
  while isinstance(value, functools.partial):
    value = value.func
  return (getattr(value, "__module__", None) or "").partition(".")[0]


def _origin(module: str) -> str | None:
  """Where a module's source is, without importing anything."""
  if loaded := sys.modules.get(module):
    return loaded.__dict__.get("__file__")
  top, *rest = module.split(".")
  try:
    spec = importlib.util.find_spec(top)
    for name in rest:
      if spec is None or spec.submodule_search_locations is None:
        return None
      spec = importlib.machinery.PathFinder.find_spec(
        f"{spec.name}.{name}", spec.submodule_search_locations
      )
  except (ImportError, ValueError, AttributeError):
    return None
  return spec.origin if spec else None


def _file_of(module: str, own: Collection[str] = ()) -> pathlib.Path | None:
  """The source of a module of the author's; None of any other, or without."""
  top = module.partition(".")[0]
  if not top or top == __name__.partition(".")[0]:
    return None
  origin = _origin(module)
  if not origin or not origin.endswith(".py"):
    return None
  path = pathlib.Path(origin).resolve()
  if top not in own and _INSTALLED.intersection(path.parents):
    return None
  return path


@functools.cache
def _text_of(path: pathlib.Path) -> bytes:
  """The content of a file when it was first read."""
  return path.read_bytes()


def _is_interactive(module: str) -> bool:
  """Whether code of a module is the author's, but in no file."""
  if module == "__main__":
    return _file_of(module) is None
  return module not in sys.modules


def _imports(text: bytes, package: str) -> Iterator[str]:
  """The modules that a source may import, wherever in its text."""
  try:
    tree = ast.parse(text)
  except (SyntaxError, ValueError):  # Nobody can import it.
    return
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = "." * node.level + (node.module or "")
      if node.level:
        try:
          base = importlib.util.resolve_name(base, package)
        except ImportError:  # Python could not import it either.
          continue
      names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
    else:
      continue
    for name in names:
      parts = name.split(".")
      yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _codes(code: types.CodeType) -> list[types.CodeType]:
  """A function's code, and that of functions inside it."""
  inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
  return [code, *(x for one in inner for x in _codes(one))]


class _Walk:
  """Hashes values one after the other, each once."""

  def __init__(self, own: frozenset[str]):
    self._own = own
    self.digest = hashlib.blake2b(digest_size=12)
    self._seen: dict[int, tuple[int, Any]] = {}
    self._read: set[pathlib.Path] = set()

  def _text(self, *parts: Any) -> None:
    for part in parts:
      text = str(part).encode("utf-8", "surrogatepass")
      self.digest.update(b"%d:%b" % (len(text), text))

  def _source(self, module: str) -> None:
    """Adds the file of a module of the author's, and of those it imports."""
    path = _file_of(module, self._own)
    if path is None or path in self._read:
      return
    self._read.add(path)
    text = _text_of(path)
    self._text(module, text)
    package = getattr(sys.modules.get(module), "__package__", None)
    if package is None:
      is_package = path.name == "__init__.py"
      package = module if is_package else module.rpartition(".")[0]
    for name in sorted(set(_imports(text, package))):
      self._source(name)

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
    elif isinstance(value, type):
      self._class(value)
    elif isinstance(value, types.ModuleType):
      self._text(value.__name__)
      self._source(value.__name__)
    elif isinstance(value, jax.Array) and jnp.issubdtype(
      value.dtype, jax.dtypes.prng_key
    ):
      self._all([str(jax.random.key_impl(value)), jax.random.key_data(value)])
    elif isinstance(value, (np.ndarray, jax.Array)):
      x = np.asarray(value)
      self._text(x.shape, x.dtype, x.tobytes().hex())
    elif (parts := _parts(value)) is not None:
      self._all(parts)
    elif isinstance(value, (set, frozenset)):
      hashes = (code_hash(x, own=self._own) for x in value)
      self._text(*sorted(hashes))
    elif _is_installed(type(value)):
      # But for where it lies in memory.
      text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
      self._text(type(value).__module__, text)
    else:
      self._all([type(value), *_attributes(value)])

  def _all(self, values: Sequence[Any]) -> None:
    self._text(len(values))
    for value in values:
      self.visit(value)

  def _function(self, fn: types.FunctionType) -> None:
    module = fn.__module__ or ""
    self._text(module, fn.__qualname__)
    cells = [_content(cell) for cell in fn.__closure__ or ()]
    self._all([fn.__defaults__, fn.__kwdefaults__, *cells])
    self._source(module)
    if _is_interactive(module):
      for code in _codes(fn.__code__):
        self._code(code, fn.__globals__)

  def _code(self, code: types.CodeType, names: dict[str, Any]) -> None:
    self._text(code.co_code.hex(), code.co_argcount, code.co_flags)
    self._text(code.co_names, code.co_varnames, code.co_freevars)
    for constant in code.co_consts:
      if not isinstance(constant, types.CodeType):
        self.visit(constant)
    loaded, imported = _globals_of(code)
    for name in imported:
      self._source(name)
    for name in loaded:
      if name not in names:
        continue  # It is Python's own, or not defined yet.
      self._text(name)
      self.visit(names[name])
      if isinstance(names[name], types.ModuleType):
        for inner in code.co_names:
          self._source(f"{names[name].__name__}.{inner}")

  def _class(self, cls: type) -> None:
    self._text(cls.__module__, cls.__qualname__)
    self._source(cls.__module__)
    if not _is_interactive(cls.__module__):
      return
    self._all(cls.__bases__)
    if dataclasses.is_dataclass(cls):
      self._all([x.default_factory for x in dataclasses.fields(cls)])
    for name, value in sorted(vars(cls).items()):
      if name not in _SKIPPED and not _is_generated(value):
        self._text(name)
        self.visit(value)


def _globals_of(code: types.CodeType) -> tuple[list[str], list[str]]:
  """The globals that code reads, and the modules that it imports itself."""
  read = {"LOAD_GLOBAL": set(), "LOAD_NAME": set(), "IMPORT_NAME": set()}
  for step in dis.get_instructions(code):
    if step.opname in read:
      read[step.opname].add(step.argval)
  loaded = read["LOAD_GLOBAL"] | read["LOAD_NAME"]
  return sorted(loaded), sorted(read["IMPORT_NAME"])


def _parts(value: Any) -> list[Any] | None:
  """What a value of Python's own types, or a wrapped function, consists of."""
  if isinstance(value, types.MethodType):
    return [value.__func__, value.__self__]
  if isinstance(value, functools.partial):
    return [value.func, value.args, value.keywords]
  if isinstance(value, (tuple, list, collections.deque)):
    return list(value)
  if isinstance(value, Mapping):
    return [x for pair in value.items() for x in pair]
  if isinstance(value, types.SimpleNamespace):
    return [vars(value)]
  if isinstance(value, (staticmethod, classmethod)):
    return [value.__func__]
  if isinstance(value, property):
    return [value.fget, value.fset, value.fdel]
  if isinstance(value, functools.cached_property):
    return [value.func]
  if callable(getattr(value, "__wrapped__", None)):
    # As functions with derivatives of their own are.
    rules = (getattr(value, name, None) for name in ("fwd", "bwd", "jvp"))
    return [value.__wrapped__, *rules]
  return None


def _attributes(value: Any) -> list[Any]:
  """The attributes of an object of the author's, with or without `__dict__`."""
  slots = [
    name
    for cls in type(value).__mro__
    for name in getattr(cls, "__slots__", ())
    if hasattr(value, name)
  ]
  return [getattr(value, "__dict__", {}), *(getattr(value, x) for x in slots)]


def _is_installed(cls: type) -> bool:
  """Whether a class is of an installed package."""
  return (
    not _is_interactive(cls.__module__) and _file_of(cls.__module__) is None
  )


def _is_generated(value: Any) -> bool:
  """Whether `dataclass` wrote a function, or what it says of its fields."""
  code = getattr(value, "__code__", None)
  if code is not None:
    return code.co_filename == "<string>"
  return isinstance(value, dict) and any(
    isinstance(x, dataclasses.Field) for x in value.values()
  )


def _content(cell: types.CellType) -> Any:
  try:
    return cell.cell_contents
  except ValueError:  # It is not filled yet.
    return None
