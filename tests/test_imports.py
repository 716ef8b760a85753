"""The house: rooms import one way, and no file is too long to read.

The order is that of docs/architecture.md. What is checked is read from the
source, so that an import inside a function counts too.
"""

import ast
import functools
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "quped_jax"
MOST_LINES = 400

# A room imports from itself and from those above it.
ROOMS = (
  "version",
  "typing",
  "scalars",
  "checks",
  "reading",
  "kinds",
  "short_repr",
  "paths",
  "random_keys",
  "chances",
  "quantization",
  "models",
  "data",
  "methods",
  "simulation",
  "files",
  "export",
  "experiment",
  "public_api",
  "command_line",
  "commands",
  "cli",
)
# Inside these rooms too there is an order.
INNER = {
  "methods": (
    "by_precision",
    "exchange",
    "api",
    "blocks",
    "methods",
    "wrappers",
  ),
  "experiment": (
    "former_names",
    "presets",
    "client_types",
    "settings",
    "experiment",
    "comparison",
    "report",
  ),
}
FOREIGN = {"experiments", "configs", "tests", "ml_collections", "absl"}


@functools.cache
def modules() -> dict[str, pathlib.Path]:
  """All modules of the package, by dotted name."""
  found = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    found[name] = path
  return found


@functools.cache
def imports(name: str) -> frozenset[str]:
  """The modules that a module imports, wherever in its text."""
  found = set()
  for node in ast.walk(ast.parse(modules()[name].read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{name}: imports are absolute"
      assert node.module is not None
      for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        found.add(whole if whole in modules() else node.module)
  return frozenset(found)


def own(name: str) -> set[str]:
  """The imports from this package, except `quped_jax` as a whole."""
  return {x for x in imports(name) if x.startswith("quped_jax.")}


def room(name: str) -> str:
  return name.split(".")[1]


def test_every_module_is_in_a_room():
  assert {room(name) for name in modules() if name != "quped_jax"} == set(ROOMS)


def test_rooms_import_from_above():
  wrong = [
    f"{name} imports {other}"
    for name in modules()
    if name != "quped_jax"
    for other in own(name)
    if ROOMS.index(room(other)) > ROOMS.index(room(name))
  ]
  assert not wrong


def inner(name: str) -> str:
  """The part of a room: a folder or file by name, or the room itself."""
  parts = name.split(".")
  place = parts[2] if len(parts) > 2 else parts[1]
  return place if place in INNER[parts[1]] else parts[1]


@pytest.mark.parametrize("where", ["methods", "experiment"])
def test_parts_of_a_room_import_from_above(where):
  order = INNER[where]
  wrong = [
    f"{name} imports {other}"
    for name in modules()
    if name.startswith(f"quped_jax.{where}.")
    for other in own(name)
    if room(other) == where and other != f"quped_jax.{where}"
    if order.index(inner(other)) > order.index(inner(name))
  ]
  assert not wrong


def test_no_imports_go_round():
  done: set[str] = set()

  def visit(name, path):
    assert name not in path, " -> ".join([*path, name])
    if name in done:
      return
    for other in sorted(own(name)):
      # A package's `__init__.py` gathers what its modules have.
      if not name.startswith(f"{other}."):
        visit(other, (*path, name))
    done.add(name)

  for name in modules():
    visit(name, ())
  assert done == set(modules())


def test_the_library_imports_nothing_of_the_commands():
  for name in modules():
    foreign = {x.split(".")[0] for x in imports(name)} & FOREIGN
    if name.startswith("quped_jax.command_line."):
      foreign -= {"absl"}  # Its log, which other libraries write to.
    assert not foreign, name


def test_no_function_and_module_share_a_public_name():
  import quped_jax

  names = {name.split(".")[1] for name in modules() if "." in name}
  functions = {
    name for name in quped_jax.__all__ if callable(getattr(quped_jax, name))
  }
  assert not names & functions


def test_no_file_is_too_long():
  long = {
    name: lines
    for name, path in modules().items()
    if (lines := len(path.read_text().splitlines())) > MOST_LINES
  }
  assert not long
