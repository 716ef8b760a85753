"""Starts a command as a user does."""

import contextlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def command(module, *args):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@contextlib.contextmanager
def poor_output(kind):
  """A standard output that takes nothing: a pipe nobody reads, a full disk."""
  if kind == "full":
    with open("/dev/full", "w") as file:
      yield file.fileno()
    return
  read, write = os.pipe()
  os.close(read)
  yield write
  os.close(write)


def command_into(kind, module, *args):
  with poor_output(kind) as stdout:
    return subprocess.run(
      [sys.executable, "-m", f"experiments.{module}", *args],
      cwd=ROOT,
      stdout=stdout,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
