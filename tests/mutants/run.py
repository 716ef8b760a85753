"""Runs the tests that mirror a mutant's file on the mutated code."""

import ast
import collections
import concurrent.futures
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from tests.mutants import address

_COPIED = (
  "quped_jax",
  "tests",
  "experiments",
  "configs",
  "pyproject.toml",
  "setup.cfg",
)
# How many tests of other modules judge a shared block, or a module without
# tests of its own.
_OTHERS = 3
# A mutant may take this many times as long as the original code.
_PATIENCE = 3
_SHORTEST_LIMIT = 120.0
# pytest's exit code where no test is selected.
_NO_TESTS = 5
_OK = (0, _NO_TESTS)

# Paths of test files, and the `-k` expression that selects from them ("" for
# all).
Tests = tuple[tuple[str, ...], str]


# ---------------------------------------------------------------------------
# Which tests judge a module.
# ---------------------------------------------------------------------------


def _module(path: pathlib.PurePath) -> str:
  return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def _imports(tree: pathlib.Path) -> dict[pathlib.Path, set[pathlib.Path]]:
  """For each file of the library, those that it imports."""
  paths = [p.relative_to(tree) for p in (tree / "quped_jax").rglob("*.py")]
  files = {_module(path): path for path in paths}
  found = {}
  for path in paths:
    names = set()
    for node in ast.walk(ast.parse((tree / path).read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        # A module of a package, or else something in the module.
        for alias in node.names:
          name = f"{module}.{alias.name}"
          names.add(name if name in files else module)
    found[path] = {files[name] for name in names if name in files} - {path}
  return found


def _mirror(tree: pathlib.Path, path: pathlib.Path) -> str | None:
  """The tests of a file: quped_jax/a/b.py has tests/a/test_b.py."""
  inside = path.relative_to("quped_jax")
  test = pathlib.Path("tests") / inside.parent / f"test_{inside.name}"
  return test.as_posix() if (tree / test).is_file() else None


def tests_of(tree: pathlib.Path, path: pathlib.Path) -> Tests:
  """The tests that judge a file of the library, the most telling first.

  Its mirrored tests; if it has none, those of the modules that import it, or
  that import these, and so on; for a block that methods share, both. Simple
  modules come first, and modules of other packages only if there are no others.
  A method or a block is then judged by the tests over all methods, for that
  method or for one made of the block.

  Args:
    tree: the checkout.
    path: of the file, relative to it.
  """
  imports = _imports(tree)
  own = _mirror(tree, path)
  judges = [path] if own else []
  if not own or "blocks" in path.parts:
    seen, level = {path}, [path]
    while level and len(judges) == bool(own):
      users = {p for p in imports if imports[p] & set(level)} - seen
      users = {p for p in users if p.name != "__init__.py"}
      seen |= users
      near = {p for p in users if p.parts[:2] == path.parts[:2]}
      level = sorted(
        near or users, key=lambda p: (len(imports[p]), p.as_posix())
      )
      judges += [p for p in level if _mirror(tree, p)][:_OTHERS]
  tests = [test for judge in judges if (test := _mirror(tree, judge))]
  chosen = ""
  everything = "tests/methods/test_all.py"
  methods = [p for p in judges if p.parts[1:-1] == ("methods",)]
  methods = [p for p in methods if p.stem not in ("__init__", "api")]
  if methods and (tree / everything).is_file():
    tests.append(everything)
    chosen = f"not test_all.py or [{methods[0].stem}]"
  return tuple(dict.fromkeys(tests)), chosen


# ---------------------------------------------------------------------------
# Running them.
# ---------------------------------------------------------------------------


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """The last result of each id; the ids of runs without mutants name tests."""
  results = {}
  if path.exists():
    for line in path.read_text().splitlines():
      record = json.loads(line)
      results[record["id"]] = record
  return results


class _Worker:
  """A copy of the checkout, and its compiled programs."""

  def __init__(self, tree: pathlib.Path, folder: pathlib.Path):
    self.tree = folder / "tree"
    self._cache = folder / "jax"
    self._process: subprocess.Popen[str] | None = None
    shutil.rmtree(self.tree, ignore_errors=True)
    self.tree.mkdir(parents=True)
    self._cache.mkdir(exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in _COPIED:
      source = tree / name
      if source.is_dir():
        shutil.copytree(source, self.tree / name, ignore=ignore)
      elif source.exists():
        shutil.copy(source, self.tree / name)

  def entries(self) -> set[pathlib.Path]:
    return set(self._cache.iterdir())

  def forget(self, kept: set[pathlib.Path]) -> None:
    """Deletes the programs of a mutant, which are not needed again."""
    for path in self.entries() - kept:
      path.unlink(missing_ok=True)

  def stop(self) -> None:
    """Ends the running tests, with all processes they started."""
    process = self._process
    if process and process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()

  def pytest(
    self, tests: Tests, args: Sequence[str], limit: float | None
  ) -> tuple[int | None, str]:
    """Runs tests: (exit code or None past the limit, first that failed)."""
    paths, chosen = tests
    command = [sys.executable, "-m", "pytest", *paths, "-x", "-q"]
    command += ["-p", "no:cacheprovider", "--tb=no", *args]
    if chosen:
      command += ["-k", chosen]
    environment = {
      **os.environ,
      "PYTHONPATH": str(self.tree),
      # Two mutants of a file may have the same size and be written in the same
      # second, and Python tells its compiled files apart by nothing else.
      "PYTHONDONTWRITEBYTECODE": "1",
      "JAX_COMPILATION_CACHE_DIR": str(self._cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    self._process = process = subprocess.Popen(
      command,
      cwd=self.tree,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    try:
      output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
      return None, f"none within {limit:.0f} s"
    finally:
      self.stop()
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    last = output.strip().splitlines()[-1:] or [""]
    return process.returncode, failed[1] if failed else last[0]


class _FailingError(Exception):
  """A test fails on the original code, so it says nothing about mutants."""


class _Run:
  """A run over many mutants, whose results are written as they come."""

  def __init__(
    self, tree: pathlib.Path, results: pathlib.Path, args: Sequence[str]
  ):
    self._tree = tree
    self._results = results
    self._args = args
    self._known = read(results)
    self._lock = threading.Lock()
    self.stopped = False

  def _write(self, record: dict[str, Any]) -> None:
    with self._lock:
      with open(self._results, "a") as file:
        file.write(json.dumps(record) + "\n")
      print(json.dumps(record), flush=True)

  def groups(
    self, mutants: Sequence[address.Mutant]
  ) -> list[tuple[Tests, list[tuple[address.Mutant, address.Found]]]]:
    """What is left to do, by the tests that judge it, the most first."""
    code = address.Code(self._tree)
    groups = collections.defaultdict(list)
    for mutant in mutants:
      if self._known.get(mutant.id, {}).get("outcome") in (
        "killed",
        "survived",
      ):
        continue
      place = code.find(mutant)
      if place is None:
        self._write({"id": mutant.id, "outcome": "lost"})
        continue
      path = place[1].path.relative_to(self._tree)
      tests = tests_of(self._tree, path)
      if not tests[0]:
        self._write({"id": mutant.id, "outcome": "survived", "test": "none"})
        continue
      groups[tests].append(place)
    return sorted(groups.items(), key=lambda item: -len(item[1]))

  def _alone(self, worker: _Worker, tests: Tests) -> float:
    """The seconds of tests on the original code; also warms the cache."""
    name = " ".join((*tests[0], *self._args))
    known = self._known.get(name)
    if known:
      return known["seconds"]
    start = time.monotonic()
    code, failed = worker.pytest(tests, self._args, None)
    if self.stopped:
      return 0.0
    if code not in _OK:
      raise _FailingError(failed)
    seconds = time.monotonic() - start
    self._write(
      {"id": name, "outcome": "unchanged", "seconds": round(seconds, 1)}
    )
    return seconds

  def group(
    self,
    worker: _Worker,
    tests: Tests,
    places: Sequence[tuple[address.Mutant, address.Found]],
  ) -> None:
    """Runs the tests on each of some mutants."""
    limit = max(_SHORTEST_LIMIT, _PATIENCE * self._alone(worker, tests))
    kept = worker.entries()
    for mutant, found in places:
      if self.stopped:
        return
      path = worker.tree / found.path.relative_to(self._tree)
      original = path.read_text()
      start = time.monotonic()
      try:
        path.write_text(address.apply(mutant, found))
        code, failed = worker.pytest(tests, self._args, limit)
      finally:
        path.write_text(original)
      if self.stopped:  # Stopped tests say nothing.
        return
      worker.forget(kept)
      survived = code in _OK
      record = {
        "id": mutant.id,
        "outcome": "survived" if survived else "killed",
        "seconds": round(time.monotonic() - start, 1),
      }
      self._write(record if survived else {**record, "test": failed})


def run(
  tree: pathlib.Path,
  results: pathlib.Path,
  *,
  mutants: Sequence[address.Mutant],
  workers: int = 2,
  pytest_args: str = "",
  work: pathlib.Path,
) -> None:
  """Runs mutants that have no result yet, and appends theirs.

  Args:
    tree: the checkout whose code is changed, and whose tests are run.
    results: a file, a JSON object on each line.
    mutants: which.
    workers: how many run at once.
    pytest_args: further arguments of pytest.
    work: a folder for the workers' copies and compiled programs.

  Raises:
    RuntimeError: tests fail on the original code; raised at the end, since
      mutants that other tests judge can still be run.
  """
  tree = tree.resolve()
  whole = _Run(tree, results, shlex.split(pytest_args))
  groups = collections.deque(whole.groups(mutants))
  started: list[_Worker] = []
  failing: list[str] = []

  def work_on(number):
    worker = _Worker(tree, work.resolve() / str(number))
    started.append(worker)
    while not whole.stopped:
      try:
        tests, places = groups.popleft()
      except IndexError:
        return
      try:
        whole.group(worker, tests, places)
      except _FailingError as error:
        failing.append(str(error))

  number = min(workers, len(groups))
  with concurrent.futures.ThreadPoolExecutor(max(number, 1)) as pool:
    try:
      for done in concurrent.futures.as_completed(
        [pool.submit(work_on, i) for i in range(number)]
      ):
        done.result()
    except BaseException:
      whole.stopped = True
      for worker in started:
        worker.stop()
      raise
  if failing:
    raise RuntimeError(f"fail without any change: {', '.join(failing)}")
