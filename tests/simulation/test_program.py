import pwd

import jax
import jax.numpy as jnp
import pytest

from quped_jax.simulation import program


def test_program_compiles_once_per_kind_of_arguments():
  double = program.Program(lambda x: 2 * x)
  assert double(jnp.ones(3)).tolist() == [2, 2, 2]
  assert double(jnp.zeros(3)).tolist() == [0, 0, 0]
  assert double.compilations == 1
  assert double(jnp.ones(4)).tolist() == [2, 2, 2, 2]
  assert double.compilations == 2
  assert double.compile_seconds > 0


def test_program_takes_donated_buffers_over():
  increase = program.Program(lambda x: x + 1, donate=(0,))
  x = jnp.ones(1000)
  assert increase(x)[0] == 2
  assert x.is_deleted()
  # Argument and output share one buffer.
  assert 4000 <= increase.memory < 8000


def test_options_that_this_jaxlib_does_not_know_are_left_out(monkeypatch):
  monkeypatch.setattr(program, "_CPU_OPTIONS", {"xla_cpu_no_such_thing": 1})
  lowered = jax.jit(lambda x: x + 1).lower(1.0)
  assert program.compile_lowered(lowered)(1.0) == 2


def test_who_asks_for_fewer_optimizations_gets_no_more():
  level = "xla_backend_optimization_level"
  asked = jax.config.read("jax_disable_most_optimizations")
  try:
    jax.config.update("jax_disable_most_optimizations", True)
    assert level not in program.options("cpu", False)
    jax.config.update("jax_disable_most_optimizations", False)
    assert program.options("cpu", False)[level] == "1"
  finally:
    jax.config.update("jax_disable_most_optimizations", asked)


def test_other_errors_of_compilation_are_raised(monkeypatch):
  monkeypatch.setattr(program, "_CPU_OPTIONS", {})

  class Lowered:
    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError("INTERNAL: something else")

  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
    program.compile_lowered(Lowered())  # pyright: ignore[reportArgumentType]


def test_without_a_home_programs_are_not_kept(monkeypatch):
  def unknown(_):
    raise KeyError

  for name in ("HOME", "QUPED_CACHE_DIR", "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, "getpwuid", unknown)
  before = jax.config.jax_compilation_cache_dir  # pyright: ignore
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    with pytest.warns(UserWarning, match="not kept: QUPED_CACHE_DIR: must be"):
      program.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None  # pyright: ignore
    with pytest.raises(ValueError, match="folder='': must not be empty"):
      program.use_compilation_cache("")
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
