"""Programs lowered for accelerators that this machine does not have."""

import re
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from quped_jax.simulation.program import Program
from tests.tiny import Tiny

ACCELERATORS = ("cuda", "tpu")

_SCATTER = re.compile(
  r'"stablehlo\.scatter"(?P<about>.*?)\}\) : \(tensor<(?P<into>\S*?)>, '
  r"tensor<(?P<index>\S*?)>, tensor<(?P<values>\S*?)>\)",
  re.DOTALL,
)

# Sums of fewer numbers are no sums over weights.
_FEW_NUMBERS = 32
# Copies of 17 counters, the fewest that many weights are scattered into.
_MANY_PLACES = 17 * 512
# Or as many counters as weights, but for a number that no copy divides.
_PER_PLACE = 2


def text(program: Program, platform: str, *args) -> str:
  """The StableHLO of a program for a platform; traced once for all."""
  exported = jax.export.export(program.jitted, platforms=[platform])(*args)
  assert exported.platforms == (platform,)
  return exported.mlir_module()


def rounds(made: Tiny, platform: str) -> str:
  """The rounds of a simulation, as its backend compiles them."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = made.simulation.shapes(False)._replace(key=key)
  # In the context in which `tiny` traces them: if it has, that is all.
  with jax.numpy_rank_promotion("raise"):
    return text(
      made.simulation.program,
      platform,
      state,
      jnp.int32(1),
      made.federation,
      made.population,
    )


class Sum(NamedTuple):
  """A scatter that adds numbers to places."""

  numbers: int
  places: int


def sums(lowered: str) -> list[Sum]:
  """Every scatter that adds."""

  def size(shape):
    return int(np.prod([int(n) for n in shape.split("x")[:-1]]))

  return [
    Sum(size(found["values"]), size(found["into"]))
    for found in _SCATTER.finditer(lowered)
    if "stablehlo.add" in found["about"]
  ]


def check_sums(lowered: str, clients: int = 1) -> None:
  """Many numbers are never added to few places, where they would queue.

  Args:
    lowered: a program.
    clients: how many of them it runs at once.
  """
  for each in sums(lowered):
    few = each.numbers < clients * _FEW_NUMBERS
    few |= each.numbers < _PER_PLACE * each.places
    assert few or each.places >= clients * _MANY_PLACES, each


def joint_reductions(lowered: str, arrays: int) -> int:
  """How many reductions take at least so many arrays at once."""
  more = r"(?:, \([^)]*\))" * (arrays - 1)
  return len(re.findall(r"stablehlo\.reduce\([^)]*\)" + more, lowered))
