"""Hashes of a method's code: other code, another hash; the same, the same."""

import importlib
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from quped_jax.methods.code import code_hash

ROOT = pathlib.Path(__file__).parents[2]

SOURCE = """
import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import optax

import {helpers}
from {helpers} import scaled

RATE = 0.5
TABLE = {{"a": (1, 2), "b": np.arange(3)}}
STEP = optax.sgd(0.1)


@dataclasses.dataclass(frozen=True)
class Options:
  strength: float = 0.5


class Net(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, x):
    return nn.relu(nn.Dense(self.width)(x))


def pull(x):
  return 2.0 * x


@jax.jit
def push(x):
  return RATE * x


@functools.partial(jax.jit, static_argnames="n")
def repeat(x, n):
  return n * x


def unused(x):
  return x


def make(models, training, options):
  def client_update(x):
    # A comment.
    inner = lambda y: repeat(push(pull(y)), 2)
    return inner(x) + {helpers}.shifted(scaled(x)) + len(TABLE) + STEP.init(x)

  return client_update, Net(3), models in {{"one", "two", "three"}}
"""
HELPERS = """
SHIFT = 1.0

def shifted(x):
  return x + SHIFT

def scaled(x):
  return 3.0 * x

def other(x):
  return x
"""


class Author:
  """Writes modules, and hashes what they make."""

  def __init__(self, folder):
    self._folder = folder
    self._count = 0

  def hash(
    self,
    old="",
    new="",
    helper_old="",
    helper_new="",
    source=SOURCE,
    encoding="utf-8",
  ):
    """The hash after changes of the code."""
    assert old in source and helper_old in HELPERS
    self._count += 1
    # Both of the same name each time, as if they were edited.
    for name in ("own_method", "own_helpers"):
      sys.modules.pop(name, None)
    folder = self._folder / str(self._count)
    folder.mkdir()
    source = source.replace(old, new, 1) if old else source
    text = source.format(helpers="own_helpers")
    (folder / "own_method.py").write_text(text, encoding)
    helpers = HELPERS.replace(helper_old, helper_new, 1)
    (folder / "own_helpers.py").write_text(helpers if helper_old else HELPERS)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
      module = importlib.import_module("own_method")
      return code_hash(module.make, module.Options)
    finally:
      sys.path.remove(str(folder))


@pytest.fixture
def author(tmp_path):
  yield Author(tmp_path)
  for name in ("own_method", "own_helpers"):
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
  "change",
  [
    ("return 2.0 * x", "return 2.5 * x"),
    ("return 2.0 * x", "return 2.0 + x"),
    ("RATE = 0.5", "RATE = 0.25"),
    ("return RATE * x", "return RATE + x"),
    ("np.arange(3)", "np.arange(4)"),
    ("optax.sgd(0.1)", "optax.sgd(0.2)"),
    ("nn.relu", "nn.gelu"),
    ("strength: float = 0.5", "strength: float = 0.6"),
    ("pull(y)), 2)", "pull(y)), 3)"),
    ("repeat(push(pull(y))", "repeat(pull(push(y))"),
    ("Net(3)", "Net(4)"),
    ("", "", "return 3.0 * x", "return 4.0 * x"),
    ("", "", "return x + SHIFT", "return x - SHIFT"),
    ("", "", "SHIFT = 1.0", "SHIFT = 2.0"),
  ],
)
def test_other_code_has_another_hash(author, change):
  assert author.hash(*change) != author.hash()


def test_a_file_may_have_another_encoding(author):
  """One that it declares, as Python reads it too."""
  hashes = [
    author.hash(
      source=f"# coding: latin-1\n# {x}\n{SOURCE}", encoding="latin-1"
    )
    for x in ("caf\xe9", "caf\xe9", "caf\xe8")
  ]
  assert hashes[0] == hashes[1] != hashes[2]


def test_a_file_counts_whole(author):
  """What a change of it does, only its author knows."""
  comment = "# A comment.", "# Another comment."
  assert author.hash(*comment) != author.hash()


def test_what_is_imported_inside_a_function_counts(author):
  late = "import {helpers}\nfrom {helpers} import scaled\n"
  inner = "    # A comment.", "    from {helpers} import scaled, shifted"
  source = SOURCE.replace(late, "").replace(*inner)
  source = source.replace("{helpers}.shifted", "shifted")
  first, same = (author.hash(source=source) for _ in range(2))
  other = author.hash(
    helper_old="return 3.0 * x", helper_new="return 4.0 * x", source=source
  )
  assert first == same != other


def test_closures_count():
  def make(rate):
    return lambda x: rate * x

  assert code_hash(make(0.1)) == code_hash(make(0.1))
  assert code_hash(make(0.1)) != code_hash(make(0.2))


@pytest.mark.parametrize("make", [jax.random.key, jax.numpy.float32, str])
def test_values_of_closures_count(make):
  def function(value):
    return lambda x: (x, value)

  first, same, other = (code_hash(function(make(x))) for x in (1, 1, 2))
  assert first == same != other


def test_numbers_in_hexadecimals_count(author):
  first, other = (author.hash("RATE = 0.5", f"RATE = {x}") for x in (1, 2))
  assert author.hash("RATE = 0.5", "RATE = 0x10") != author.hash(
    "RATE = 0.5", "RATE = 0x20"
  )
  assert first != other


def write(folder, files):
  for name, text in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(folder, *arguments):
  """The last line that a program prints."""
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.split()[-1]


@pytest.mark.slow
def test_a_file_counts_as_it_was_when_it_was_first_read(tmp_path):
  """Which is what runs, if its author goes on writing."""
  source = "def make(*args):\n  return 1\n"
  program = (
    "import pathlib, mine; from quped_jax.methods.code import code_hash; "
    "first = code_hash(mine.make); path = pathlib.Path('mine.py'); "
    "path.write_text(path.read_text().replace('1', '2')); "
    "print(code_hash(mine.make) == first)"
  )
  write(tmp_path, {"mine.py": source})
  assert run(tmp_path, "-c", program) == "True"


PRINT = (
  "from quped_jax.methods.code import code_hash\n"
  "def make(*args):\n  return K\n"
  "if __name__ == '__main__':\n  print(code_hash(make))\n"
)


@pytest.mark.slow
def test_relative_imports_of_a_program_count(tmp_path):
  """Also names that only type checkers import, of packages that fail."""
  broken = "raise RuntimeError('not to be imported')"
  source = (
    "from typing import TYPE_CHECKING\nfrom .rates import K\n"
    "if TYPE_CHECKING:\n  from broken.types import Thing\n" + PRINT
  )
  found = []
  for number in (1, 1, 2):
    files = {"own/__init__.py": "", "own/train.py": source}
    files |= {"own/rates.py": f"K = {number}\n", "broken/__init__.py": broken}
    write(tmp_path, files)
    found.append(run(tmp_path, "-m", "own.train"))
  assert found[0] == found[1] != found[2]


@pytest.mark.slow
def test_a_file_named_like_one_of_pythons_counts(tmp_path):
  found = []
  for number in (1, 2):
    write(tmp_path, {"profile.py": f"K = {number}\n"})
    write(tmp_path, {"train.py": "from profile import K\n" + PRINT})
    found.append(run(tmp_path, "train.py"))
  assert found[0] != found[1]


@pytest.mark.slow
def test_of_installed_packages_only_the_methods_own_counts():
  known = code_hash(jax.vmap)
  assert code_hash(jax.vmap, own={"optax"}) == known
  assert code_hash(jax.vmap, own={"jax"}) != known


# Code of a notebook, and a change of it.
NOTEBOOK = {
  "a function": ("def f(x):\n  return x", "n x", "n -x"),
  "a rule of a derivative": (
    "import jax\n"
    "f = jax.custom_vjp(lambda x: x)\n"
    "f.defvjp(lambda x: (x, None), lambda _, g: (1.0 * g,))",
    "1.0",
    "2.0",
  ),
  "a cached property": (
    "import functools\n"
    "class Net:\n"
    "  @functools.cached_property\n"
    "  def size(self):\n    return 3\n"
    "f = lambda x: Net().size",
    "3",
    "4",
  ),
  "slots": (
    "class Table:\n  __slots__ = ('rate',)\n"
    "table = Table()\ntable.rate = 3\nf = lambda x: table.rate",
    "= 3",
    "= 4",
  ),
  "a default of a field": (
    "import dataclasses\n"
    "@dataclasses.dataclass\n"
    "class Table:\n"
    "  rates: list = dataclasses.field(default_factory=lambda: [3])\n"
    "f = lambda x: Table()",
    "[3]",
    "[4]",
  ),
  "a set of functions": (
    "g = lambda x: 3\ntable = {g}\nf = lambda x: table",
    "x: 3",
    "x: 4",
  ),
  "a namespace": (
    "import types\n"
    "table = types.SimpleNamespace(rate=lambda x: 3)\n"
    "f = lambda x: table.rate(x)",
    "x: 3",
    "x: 4",
  ),
}


@pytest.mark.parametrize("name", NOTEBOOK)
def test_code_without_a_source_is_compared_as_compiled(name):
  def make(text):
    names = {"__name__": "notebook"}
    exec(text + "\ndef make(x):\n  return f(x)", names)
    return names["make"]

  text, old, new = NOTEBOOK[name]
  assert text.count(old) == 1
  first, same, other = map(make, (text, text, text.replace(old, new)))
  assert code_hash(first) == code_hash(same) != code_hash(other)


def test_a_global_that_only_an_attribute_is_called_like_does_not_count():
  def make(rate):
    names = {"__name__": "notebook", "rate": rate}
    exec("def make(x):\n  return x.rate", names)
    return names["make"]

  assert code_hash(make(1)) == code_hash(make(2))


@pytest.mark.slow
def test_another_process_finds_the_same(author, tmp_path):
  here = author.hash()
  program = (
    "import own_method as m; from quped_jax.methods.code import code_hash; "
    "print(code_hash(m.make, m.Options))"
  )
  for seed in ("1", "2"):
    done = subprocess.run(
      [sys.executable, "-c", program],
      cwd=ROOT,
      env={
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": f"{tmp_path / '1'}{os.pathsep}{ROOT}",
      },
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == here
