"""Programs that are compiled ahead of time, with the options that are fast."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax

from quped_jax import paths
from quped_jax.data.cache import default_cache_dir

# By default, XLA on CPU hands convolutions to a library that takes 1.5 to 2
# times as long as XLA's own code (jaxlib 0.10.2: 7 ms against 4 ms for the
# gradient of a 5x5 convolution). Only sums are left to the library.
#
# At level 1 of LLVM's optimizations instead of 3, a round of QuPeD on an MLP
# compiles in 0.75 of the time, initial weights in 0.45, and rounds take 0.86 to
# 1.01 of the time (1 to 32 bits, MLP and CNN1, medians by turns).
_LEVEL = "xla_backend_optimization_level"
_CPU_OPTIONS: dict[str, str | bool] = {
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
  _LEVEL: "1",
}
# With it, XLA on a GPU chooses no form of an operation by timing it, and takes
# one that gives the same bits in every run, if maybe a slow one, of products,
# convolutions and scatters. It refuses operations that have none, such as the
# gradient of `flax.linen.max_pool`.
_GPU_DETERMINISTIC: dict[str, str | bool] = {"xla_gpu_deterministic_ops": True}


def options(platform: str, deterministic: bool) -> dict[str, str | bool]:
  """The compiler's options.

  Args:
    platform: "cpu", "gpu" or "tpu".
    deterministic: whether a program must give the same bits in every run, as it
      does in any case on a CPU.
  """
  if platform == "cpu":
    # Whoever asks JAX for fewer optimizations, as tests do, gets no more.
    fewer = jax.config.read("jax_disable_most_optimizations")
    return {
      k: v for k, v in _CPU_OPTIONS.items() if not (fewer and k == _LEVEL)
    }
  return _GPU_DETERMINISTIC if platform == "gpu" and deterministic else {}


def compile_lowered(
  lowered: jax.stages.Lowered, *, deterministic: bool = False
) -> jax.stages.Compiled:
  """Compiles what `jax.jit(f).lower(...)` returned, with our options.

  The options are those for the default backend; a jaxlib that does not know
  those that are only fast compiles without.

  Args:
    lowered: the program.
    deterministic: see `options`.
  """
  chosen = options(jax.default_backend(), deterministic)
  try:
    return lowered.compile(compiler_options=chosen or None)
  except jax.errors.JaxRuntimeError as error:
    if not any(name in str(error) for name in chosen):
      raise
    return lowered.compile()


def use_compilation_cache(folder: str | os.PathLike | None = None) -> None:
  """Keeps compiled programs on disk, so that a later run need not compile.

  The commands in `experiments` call this. It changes nothing if a cache is set
  already, as by the environment variable JAX_COMPILATION_CACHE_DIR. If the
  files exceed 2 GiB, the least recently used are deleted.

  Args:
    folder: of the cache; None for `jax` in the user's cache folder, see
      `QUPED_CACHE_DIR` in docs/data.md.

  Raises:
    ValueError: a path that cannot be one of a folder.

  Examples:
    First thing, before anything is compiled:

    >>> qj.use_compilation_cache()
  """
  config: Any = jax.config  # Whose fields type checkers do not know.
  if config.jax_compilation_cache_dir is not None:
    return
  if folder is not None:
    folder = paths.given("folder", folder)
  else:
    try:
      folder = default_cache_dir() / "jax"
    except ValueError as error:
      # A run only takes longer without.
      warnings.warn(f"compiled programs are not kept: {error}", stacklevel=2)
      return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # A limit makes JAX lock the folder too, for processes that share it.
  jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Program:
  """A function that is compiled ahead of time, once per kind of arguments.

  Args:
    fn: the function.
    donate: the arguments whose buffers it takes over.
    deterministic: see `options`.

  Attributes:
    jitted: the function, which can be lowered for other platforms too.
    compilations: how often it was compiled.
    compile_seconds: how long that took, in all.
    memory: bytes that the last compiled form takes: arguments and outputs
      (those that share a buffer once) and temporaries.
  """

  def __init__(
    self,
    fn: Callable[..., Any],
    donate: tuple[int, ...] = (),
    *,
    deterministic: bool = False,
  ):
    self._deterministic = deterministic
    self.jitted = jax.jit(fn, donate_argnums=donate)
    self._compiled: dict[Any, Any] = {}
    self.compilations = 0
    self.compile_seconds = 0.0
    self.memory = 0

  def __call__(self, *args):
    return self.compile(*args)(*args)

  def compile(self, *args) -> jax.stages.Compiled:
    """The compiled form for arguments of this kind; runs nothing."""
    leaves, structure = jax.tree.flatten(args)
    types = [jax.typeof(x) for x in leaves]
    kind = (structure, tuple((t.shape, t.dtype) for t in types))
    if kind not in self._compiled:
      self._compiled[kind] = self._compile(args)
    return self._compiled[kind]

  def _compile(self, args):
    start = time.perf_counter()
    compiled = compile_lowered(
      self.jitted.lower(*args), deterministic=self._deterministic
    )
    self.compile_seconds += time.perf_counter() - start
    self.compilations += 1
    memory = compiled.memory_analysis()
    if memory is not None:
      self.memory = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
      )
    return compiled
