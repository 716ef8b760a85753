"""Programs that are compiled ahead of time, with the options that are fast."""

import time
from collections.abc import Callable
from typing import Any

import jax

# XLA's default on CPU hands convolutions to a library that takes 1.5 to 2
# times as long with them as XLA's own code (jaxlib 0.10.2: 7 ms against 4 ms
# for a 5x5 convolution's gradient). Only sums are left to it.
_CPU_OPTIONS: dict[str, str | bool] = {
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
}


def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
  """Compiles what `jax.jit(f).lower(...)` returned, with our options.

  They are those of the default backend; a jaxlib that does not know them
  compiles without.
  """
  if jax.default_backend() != "cpu":
    return lowered.compile()
  try:
    return lowered.compile(compiler_options=_CPU_OPTIONS)
  except jax.errors.JaxRuntimeError as error:
    if not any(name in str(error) for name in _CPU_OPTIONS):
      raise
    return lowered.compile()


class Program:
  """A function that is compiled ahead of time, once per kind of arguments.

  Attributes:
    compilations: how often it was compiled.
    compile_seconds: how long that took, in all.
    memory: bytes that the last compiled form takes: arguments and outputs
      (those that share a buffer once) and temporaries.
  """

  def __init__(self, fn: Callable[..., Any], donate: tuple[int, ...] = ()):
    self._jitted = jax.jit(fn, donate_argnums=donate)
    self._compiled: dict[Any, Any] = {}
    self.compilations = 0
    self.compile_seconds = 0.0
    self.memory = 0

  def __call__(self, *args):
    leaves, structure = jax.tree.flatten(args)
    types = [jax.typeof(x) for x in leaves]
    kind = (structure, tuple((t.shape, t.dtype) for t in types))
    if kind not in self._compiled:
      self._compiled[kind] = self._compile(args)
    return self._compiled[kind](*args)

  def _compile(self, args):
    start = time.perf_counter()
    compiled = compile_lowered(self._jitted.lower(*args))
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
