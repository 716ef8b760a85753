"""Operations of compiled programs, counted."""

import jax
import jax.numpy as jnp

from experiments.benchmarks import (
  operations,
)

_HLO = """HloModule jit_f, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} add(%p, %p)
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%t), index=1
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %z = f32[4]{0} copy(%y)
  ROOT %r = (s32[], f32[4]{0}) tuple(%t, %z)
}

%condition (t.1: (s32[], f32[4])) -> pred[] {
  %t.1 = (s32[], f32[4]{0}) parameter(0)
  ROOT %c = pred[] compare(%t.1, %t.1), direction=LT
}

ENTRY %main (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %w = (s32[], f32[4]{0}) while(%q), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  %v = (s32[], f32[4]{0}) while(%w), condition=%condition, body=%body
  %k = f32[4]{0} call(%v), to_apply=%fused
  ROOT %o = f32[4]{0} negate(%k)
}
"""


def test_operations_in_loops_count_as_often_as_they_run():
  # Fusion and copy, 7 times and once; the call's addition; the negation.
  assert operations.executed(_HLO) == 2 * 7 + 2 + 1 + 1


def test_operations_of_a_program_that_xla_compiled():
  def steps(x, length):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=length)[0]

  few, many = (
    operations.executed(
      jax.jit(lambda x, n=n: steps(x, n)).lower(jnp.eye(9)).compile().as_text()
      or ""
    )
    for n in (3, 30)
  )
  assert many - few >= 27
