"""Runs the console script, as a user does or in this process."""

import subprocess
import sys
import warnings
from typing import Any

import pytest

from quped_jax import cli


def quped(*args: str, cwd: Any = None) -> subprocess.CompletedProcess:
  """Runs a command in a process of its own."""
  return subprocess.run(
    [sys.executable, "-m", "quped_jax.cli", *args],
    cwd=cwd,
    capture_output=True,
    text=True,
    check=False,
  )


def in_process(*args: str) -> int:
  """Runs a command here, which computes nothing; returns its exit code."""
  with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(warnings, "formatwarning", warnings.formatwarning)
    patch.setattr("quped_jax.command_line.startup.prepare", lambda: None)
    try:
      cli.main(args)
    except SystemExit as ended:
      return int(ended.code or 0)
  return 0


def mistake(capsys: Any, *args: str) -> str:
  """The one line that a command prints which ends with exit code 2."""
  assert in_process(*args) == 2
  said = capsys.readouterr()
  assert not said.out
  (line,) = said.err.splitlines()
  assert line.startswith("error: ")
  return line.removeprefix("error: ")
