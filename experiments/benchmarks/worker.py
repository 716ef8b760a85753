"""A process that measures rows of suite `accelerator` for another one.

It imports the library of a checkout, this one or another, with the suite's own
files of this one. A process of its own can be ended when time is up, even while
it compiles, and one that crashes takes nothing else with it.

This module imports nothing of the library before it is known which.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parents[2]

# Without these in the environment, JAX takes most of a GPU's memory when it
# starts, and leaves too little for PyTorch or a second process.
_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# Where programs would be kept, and not be compiled.
_CACHES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


class EndedError(Exception):
  """A worker that gave no answer; says why."""


class Worker:
  """The handle of a process, which is started anew if it has ended.

  Attributes:
    checkout: the folder whose library it measures.
    start_seconds: from its start until it was ready.
  """

  def __init__(
    self, checkout: pathlib.Path, *, quick: bool, memory_share: float
  ):
    self.checkout = checkout
    self.start_seconds = 0.0
    self._quick, self._share = quick, memory_share
    self._began = 0.0
    self._described: dict[str, Any] | None = None
    self._process: subprocess.Popen[str] | None = None
    self._lines: queue.Queue[str] = queue.Queue()

  def launch(self) -> None:
    """Starts the process, unless it runs, and does not wait for it."""
    if self._process is not None:
      return
    self._began = time.monotonic()
    command = [sys.executable, "-u", "-m", __name__, str(self.checkout)]
    environment = {_SHARE: f"{self._share:.2f}", **os.environ}
    if not self._quick:
      for name in _CACHES:
        environment.pop(name, None)
    self._process = subprocess.Popen(
      [*command, "--quick"] if self._quick else command,
      cwd=HERE,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._lines, self._described = queue.Queue(), None
    threading.Thread(
      target=_read, args=(self._process.stdout, self._lines), daemon=True
    ).start()

  def start(self, timeout: float) -> dict[str, Any]:
    """What the process says of itself, once it is ready.

    Raises:
      EndedError: it is not ready in time.
    """
    self.launch()
    if self._described is None:
      self._described = self._answer(timeout)
      self.start_seconds = time.monotonic() - self._began
    return self._described

  def ask(self, key: str, timeout: float) -> dict[str, Any]:
    """Has it measure a row; see `rows.measure`.

    Args:
      key: of the row.
      timeout: seconds, after which the process is ended.

    Raises:
      EndedError: time is up, or the process crashed.
    """
    deadline = time.monotonic() + timeout
    self.start(timeout)
    assert self._process is not None and self._process.stdin is not None
    # If it has ended, the lack of an answer will say so.
    with contextlib.suppress(OSError):
      self._process.stdin.write(json.dumps(key) + "\n")
      self._process.stdin.flush()
    return self._answer(deadline - time.monotonic())

  def _answer(self, timeout: float) -> dict[str, Any]:
    try:
      line = self._lines.get(timeout=max(timeout, 0.0))
    except queue.Empty:
      self.close()
      raise EndedError("time was up") from None
    if line:
      return json.loads(line)
    assert self._process is not None
    code = self._process.wait()
    self.close()
    raise EndedError(f"its process ended with code {code}")

  def close(self) -> None:
    """Ends the process, whatever it does."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      for stream in (self._process.stdin, self._process.stdout):
        if stream is not None:
          with contextlib.suppress(OSError):
            stream.close()
      self._process = None


def _read(stream: Any, lines: "queue.Queue[str]") -> None:
  """Passes lines on; at the end an empty one."""
  with contextlib.suppress(ValueError):  # It may be closed meanwhile.
    for line in stream:
      lines.put(line)
  lines.put("")


def commit(checkout: pathlib.Path) -> str | None:
  """The commit of a checkout, with a plus sign if files were changed."""

  def git(*arguments):
    return subprocess.run(
      ["git", "-C", str(checkout), *arguments],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return None


def import_library(checkout: pathlib.Path) -> Any:
  """Imports `quped_jax` of a checkout, and this one's `experiments`."""
  sys.path.insert(0, str(checkout))
  try:
    library = importlib.import_module("quped_jax")
  finally:
    sys.path.remove(str(checkout))
  found = pathlib.Path(str(library.__file__)).resolve().parents[1]
  if found != checkout.resolve():
    raise ImportError(f"quped_jax is of {found}, not of {checkout}")
  return library


def main() -> None:
  """Answers requests, a line of JSON each, until there are no more."""
  parser = argparse.ArgumentParser(prog=f"python -m {__name__}")
  parser.add_argument("checkout", type=pathlib.Path)
  parser.add_argument("--quick", action="store_true")
  given = parser.parse_args()
  # What is printed meanwhile goes elsewhere.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  import_library(given.checkout)
  if given.quick:
    # Compiles in a fraction of the time.
    jax = importlib.import_module("jax")
    jax.config.update("jax_disable_most_optimizations", True)
  machine = importlib.import_module("experiments.benchmarks.machine")
  rows = importlib.import_module("experiments.benchmarks.rows")
  suite = importlib.import_module("experiments.benchmarks.accelerator")
  by_key = {row.key: row for row in suite.all_rows()}

  def say(answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()

  say(
    {
      **machine.describe(given.quick, rates=False),
      "commit": commit(given.checkout),
    }
  )
  for line in sys.stdin:
    say(rows.measure(by_key[json.loads(line)], given.quick))


if __name__ == "__main__":
  main()
