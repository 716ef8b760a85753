"""Keeps compiled programs between test runs, and simulates 8 devices.

JAX writes the entries of its compilation cache in place, so two processes
that share a folder can read half an entry. Each process (a second run of the
tests, a pytest-xdist worker) therefore takes the first folder that no other
process holds.
"""

import fcntl
import gc
import os
import pathlib

import hypothesis
import pytest

_CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"


def _claim_cache() -> pathlib.Path:
  """Returns a free folder, held until this process ends."""
  number = 0
  while True:
    folder = _CACHE / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    # A bare descriptor: the operating system closes it, and frees the lock.
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      os.close(lock)
      number += 1
    else:
      return folder


# Before JAX is first used. Only tests that ask for devices use more than one.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # Through the environment, and not jax.config, for tests that start Python.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_claim_cache())
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402

from quped_jax.simulation.client_axis import wait_for_devices  # noqa: E402

# Tests may share a busy machine.
wait_for_devices()

# A short run draws the same examples every time, so that it judges a change
# and not its luck; a long one looks for new ones.
if os.environ.get("QUPED_LONG_TESTS") != "1":
  hypothesis.settings.register_profile("short", derandomize=True)
  hypothesis.settings.load_profile("short")


def pytest_collection_modifyitems(items):
  """In a file, the tests of a group, say of a method, follow each other."""
  order = {}

  def place(item):
    marker = item.get_closest_marker("xdist_group")
    name = marker.args[0] if marker else ""
    return order.setdefault(item.path, len(order)), name

  items.sort(key=place)


@pytest.fixture(autouse=True, scope="module")
def _free_programs():
  """Frees what JAX compiled for a file's tests.

  Every program maps several pieces of memory, of which Linux allows a process
  65530. The tests of all files together pass that, and XLA then crashes.
  """
  yield
  jax.clear_caches()
  gc.collect()
