"""What the machine is, and what it can do: the yardsticks of all suites."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import quped_jax as qj


def cores() -> int:
  """The CPU cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def device_name() -> str:
  """`cpu2` for two CPU cores; for others a name such as `nvidia-h200`."""
  if jax.default_backend() == "cpu":
    return f"cpu{cores()}"
  return "-".join(jax.devices()[0].device_kind.lower().split())


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _processor() -> str:
  """The name of the processor; on Linux `platform` does not know it."""
  info = pathlib.Path("/proc/cpuinfo")
  if info.is_file():
    for line in info.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def _fastest(run: Callable[[], Any], repetitions: int) -> float:
  run()
  seconds = []
  for _ in range(repetitions):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def matrix_rates(quick: bool) -> dict[str, float]:
  """GFLOP/s of `jnp.dot` of two 2048 x 2048 matrices, by dtype.

  The fastest of a few repetitions on one device.
  """
  size, repetitions = (64, 2) if quick else (2048, 5)
  product = jax.jit(jnp.dot)
  rates = {}
  for dtype in ("float32", "bfloat16"):
    matrix = jnp.ones((size, size), dtype)
    seconds = _fastest(
      lambda matrix=matrix: product(matrix, matrix).block_until_ready(),
      repetitions,
    )
    rates[dtype] = 2 * size**3 / seconds / 1e9
  return rates


def copy_rate(megabytes: int, repetitions: int) -> float:
  """Bytes per second, read and written, of adding 1 on all devices at once.

  Args:
    megabytes: of the array, which should not fit into caches.
    repetitions: of which the fastest counts.
  """
  devices = np.array(jax.local_devices())
  length = megabytes * 250_000 // devices.size * devices.size
  parts = NamedSharding(Mesh(devices, ("x",)), P("x"))
  array = jax.device_put(jnp.ones(length, jnp.float32), parts)
  add = jax.jit(lambda x: x + 1)
  seconds = _fastest(lambda: add(array).block_until_ready(), repetitions)
  return 2 * array.nbytes / seconds


def describe(quick: bool, rates: bool = True) -> dict[str, Any]:
  """The machine's entry at the head of every result file.

  Args:
    quick: measures its rates on small arrays.
    rates: whether they are measured.
  """
  measured: dict[str, Any] = {}
  if rates:
    measured["matrix_gflops"] = matrix_rates(quick)
    size = (1, 2) if quick else (256, 10)
    measured["copy_bytes_per_second"] = copy_rate(*size)
  packages = ("jax", "jaxlib", "numpy", "torch")
  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": {
      "python": platform.python_version(),
      **{package: _version(package) for package in packages},
      "quped_jax": qj.__version__,
    },
    "device": device_name(),
    "device_kind": jax.devices()[0].device_kind,
    "devices": jax.local_device_count(),
    "cores": cores(),
    "processor": _processor(),
    "platform": platform.platform(),
    **measured,
  }
