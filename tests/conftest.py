"""Compiles quickly, keeps programs between runs, and simulates 8 devices.

XLA's compilation takes most of the tests' time. They compile with few
optimizations, on which no result depends; processes that a test starts compile
as they do for users.

The workers of a run share a folder of compiled programs; two runs do not. JAX
writes the entries in place: whoever reads half of one compiles it again.
"""

import fcntl
import gc
import importlib.metadata
import os
import pathlib
import signal

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

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


# A shell ignores them in what it runs in the background, and runs leave ignored
# signals alone; tests, and processes that they start, shall not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
  signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before JAX is first used. Only tests that ask for devices use more than one.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

# XLA's old emitters take half the time of the new ones. XLA ends the process at
# a flag it does not know, so only versions that know this one get it.
_XLA_FLAGS = os.environ.get("XLA_FLAGS")
if importlib.metadata.version("jaxlib").startswith("0.10."):
  os.environ["XLA_FLAGS"] = (
    f"{_XLA_FLAGS or ''} --xla_cpu_use_fusion_emitters=false".strip()
  )

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # Through the environment, and not jax.config, for tests that start Python.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_claim_cache())
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402

from quped_jax.simulation.layout import wait_for_devices  # noqa: E402

jax.config.update("jax_disable_most_optimizations", True)

# Tests may share a busy machine.
wait_for_devices()

# XLA has read its flags; processes that tests start get the user's.
jax.block_until_ready(jax.jit(lambda: 0)())
if _XLA_FLAGS is None:
  os.environ.pop("XLA_FLAGS", None)
else:
  os.environ["XLA_FLAGS"] = _XLA_FLAGS

# A short run draws the same examples every time, so that a failure is due to a
# change and not to chance; a long one looks for new examples.
if os.environ.get("QUPED_LONG_TESTS") != "1":
  hypothesis.settings.register_profile("short", derandomize=True)
  hypothesis.settings.load_profile("short")


class _Scheduling(LoadScopeScheduling):
  """The tests of a file run on one worker, where they share what is compiled.

  In a file of tests over all methods, those of one method do.
  """

  def _split_scope(self, nodeid: str) -> str:
    path, _, name = nodeid.partition("::")
    if path.endswith("/test_all.py") and "[" in name:
      return f"{path}[{name.partition('[')[2]}"
    return path


# Tracing makes millions of objects, few of which are garbage in cycles: to look
# for them as often as Python does by default takes a tenth of the time.
gc.set_threshold(200_000, 50, 1000)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  return _Scheduling(config, log)


def pytest_collection_modifyitems(items):
  """Among the tests over all methods, those of one method run in sequence."""

  def place(item):
    order = paths.setdefault(item.path, len(paths))
    in_turns = item.path.name == "test_all.py"
    return order, item.name.partition("[")[2] if in_turns else ""

  paths: dict[pathlib.Path, int] = {}
  items.sort(key=place)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
  """Runs of tests draw no figures, which takes seconds."""
  monkeypatch.setattr(
    "quped_jax.experiment.figures.run_figures.leave", lambda *_: None
  )


# Half of the memory maps that Linux allows a process. Every program takes
# several; past the limit XLA crashes.
_MOST_MAPS = 65530 // 2


@pytest.fixture(autouse=True, scope="module")
def _free_programs():
  """Frees what JAX compiled for a file's tests, once it is a lot."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if not maps.exists() or maps.read_bytes().count(b"\n") > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()
