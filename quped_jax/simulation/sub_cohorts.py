"""Sub-cohorts: clients of one cohort that need about as many levels.

A cohort's clients run one program, in which codebooks have room for the levels
of the most precise. On a CPU, which runs them one at a time, that program
branches (`quped_jax.quantization.levels_in_use`). An accelerator runs them at
once and does not branch, so that each would pay for the levels of all, and one
in full precision for a second pass through the same model. Where everyone takes
part, the program may instead run one sub-cohort after the other, each with a
method that knows how many levels its clients have at most. Codebooks keep their
room, so that states, checkpoints and results are the same.

A program of several parts takes longer to compile, and starts more operations.
By the programs that XLA compiles for an H100, a step of QuPeD on CNN1 reads and
writes about as much with 16 levels as with 2, but computes eight times as many
sigmoids, and in full precision it takes half as many passes. No sub-cohorts
have been timed on an accelerator.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from quped_jax.methods import api
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.simulation import at_once

# The most levels of clients that run together: none, a few sigmoids per weight,
# up to 15 of them, and more, whose sums take other forms (`soft_forms`).
_MOST = (0, 4, 16, 2**codebook_lib.MAX_BITS)
# Starting more operations may take this share of a round's time.
_SLOWER = 0.1
# On the busiest device, the clients that run may be this many times as many.
_UNEVEN = 1.1
# Bytes of clients, times their local steps in all of a run, from which on what
# is saved is more than the further time to compile: about 0.1 ms of 0.3 for a
# client step of CNN1, whose clients take 60 MB while they run, against 20 s.
_WORTH = 2**43


class SubCohort(NamedTuple):
  """Clients of a cohort that run together.

  Attributes:
    bits: their precisions.
    most: the most levels that one of them has, 0 in full precision.
    count: how many a device has at most.
  """

  bits: tuple[int, ...]
  most: int
  count: int


class Part(NamedTuple):
  """What a program knows of a sub-cohort.

  Attributes:
    clients: who it is.
    method: what its clients do.
  """

  clients: SubCohort
  method: api.FederatedMethod


# `most levels -> method` of clients that have no more levels.
ForLevels = Callable[[int], api.FederatedMethod]


def divide(shares: Sequence[np.ndarray]) -> tuple[SubCohort, ...]:
  """Divides a cohort into its sub-cohorts, those of the fewest levels first.

  Args:
    shares: for each device, the precisions of the cohort's clients there, in
      bits.
  """
  everyone = sorted({int(b) for share in shares for b in share})
  levels = {
    b: 0 if b >= codebook_lib.FULL_PRECISION else 2**b for b in everyone
  }
  found = []
  for low, high in zip((-1, *_MOST), _MOST, strict=False):
    bits = tuple(b for b in everyone if low < levels[b] <= high)
    if bits:
      most = max(levels[b] for b in bits)
      count = max(int(np.isin(share, bits).sum()) for share in shares)
      found.append(SubCohort(bits, most, count))
  return tuple(found)


def pay(
  platform: str,
  found: Sequence[SubCohort],
  share: int,
  client_bytes: int,
  client_steps: int,
) -> bool:
  """Whether a program that is divided saves more time than it costs.

  Args:
    platform: where clients run, such as "cpu" or "gpu".
    found: the sub-cohorts of a cohort, of whom all take part in every round.
    share: how many clients of the cohort a device has, at most.
    client_bytes: bytes that a client takes while it runs.
    client_steps: local steps of all clients together, in all of a run.
  """
  if platform == "cpu" or len(found) < 2:
    return False
  if sum(x.count for x in found) > _UNEVEN * share:
    return False
  if at_once.slower(len(found), share * client_bytes) > _SLOWER:
    return False
  return client_steps * client_bytes >= _WORTH
