"""Programs that do what the levels in use ask for, and no more.

Codebooks have room for the levels of the most precise learner. A program that
runs one learner at a time, as on a CPU, can branch on how many a learner really
has: one in full precision computes nothing, one with few levels sums few steps,
and neither pays for its neighbours. Learners that run at once under vmap branch
together, by the most levels among them.

Accelerators do not branch: they would have to ask the host which way to go.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.codebook import Codebook

# Up to this number of levels, they are few.
FEW = 4
# Few levels get a branch of their own in tensors of at most so many weights. On
# a CPU, a step of QuPeD with a hidden kernel of 4096 weights takes 0.09 ms at 1
# bit and 0.34 at 4; with CNN1, whose kernels have 51 thousand and 1.6 million,
# it takes 100 ms at either, and branches take time to compile.
_SMALL = 2**14


def are_mixed(bits: Sequence[int]) -> bool:
  """Whether programs may gain by branching on these precisions.

  Args:
    bits: of all learners of a program, from 1 to 8, or 32.
  """
  levels = [0 if b >= codebook_lib.FULL_PRECISION else 2**b for b in bits]
  return len({(count > 0) + (count > FEW) for count in levels}) > 1


@jax.custom_batching.custom_vmap
def _most(levels):
  return jnp.max(levels)


@_most.def_vmap
def _(axis_size, in_batched, levels):
  del axis_size, in_batched
  # By the same function, of which a vmap outside of this one makes the same.
  return _most(levels), False


def most(levels: jax.Array) -> jax.Array:
  """The most levels in use, int32 `[]`: under vmap one number for all.

  Args:
    levels: of one codebook, `[]` or `[channels]`.
  """
  return _most(jax.lax.stop_gradient(levels))


def in_use(codebooks: Sequence[Codebook]) -> jax.Array | bool:
  """Whether any of the learners that run has levels.

  Args:
    codebooks: of one learner.

  Returns:
    A bool if that is known when a program is traced, else bool `[]`, one for
    all learners under vmap. For an accelerator it is True, as the compiler
    finds.
  """
  may = [c for c in codebooks if c.in_room().max_levels]
  if not may or not any(c.mixed for c in may):
    return bool(may)
  counts = [most(c.levels) for c in may]
  return jax.lax.platform_dependent(
    jnp.max(jnp.stack(counts)),
    cpu=lambda count: count > 0,
    # Not a constant, which does not vary over devices as the other does.
    default=lambda count: (count < 0) | True,
  )


class Branches(NamedTuple):
  """What a branch calls, each with the same arguments.

  Attributes:
    none: where all learners are in full precision.
    few: where none has more than FEW levels, of small tensors.
    many: elsewhere.
    otherwise: on accelerators, whatever levels are in use.
  """

  none: Callable[..., Any]
  few: Callable[..., Any]
  many: Callable[..., Any]
  otherwise: Callable[..., Any]


def branch(
  codebook: Codebook, size: int, branches: Branches, *args: Any
) -> Any:
  """Calls what the levels in use ask for.

  Args:
    codebook: of a tensor, without room for what is not in use.
    size: how many weights the tensor has.
    branches: what may be called; all return the same types.
    *args: the arguments.
  """

  def on_cpu(levels, *args):
    if not codebook.mixed:
      return branches.many(*args)
    count = most(levels)
    if codebook.max_levels <= FEW or size > _SMALL:
      return jax.lax.cond(count > 0, branches.many, branches.none, *args)
    index = (count > 0).astype(jnp.int32) + (count > FEW).astype(jnp.int32)
    return jax.lax.switch(index, branches[:3], *args)

  if not codebook.mixed and branches.many is branches.otherwise:
    return branches.many(*args)
  return jax.lax.platform_dependent(
    codebook.levels,
    *args,
    cpu=on_cpu,
    default=lambda levels, *args: branches.otherwise(*args),
  )


def small(codebook: Codebook) -> Codebook:
  """The codebook without room for more than FEW levels."""
  return dataclasses.replace(codebook, centers=codebook.centers[..., :FEW])


def widened(gradient: jax.Array, max_levels: int) -> jax.Array:
  """A gradient of some levels, `[levels]`, with zeros up to so many."""
  return jnp.pad(gradient, (0, max_levels - gradient.shape[0]))
