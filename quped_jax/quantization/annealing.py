"""How far quantization has come at some point of the training.

Estimators that anneal begin near full precision and end at the levels. They go
by the share of the training that is done, `Rates.progress`: in a federation
that of the server's rounds.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import checks

# The estimators that go by it.
ANNEALED = ("binaryrelax", "parq")

# As shares come from divisions of float32.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Annealing:
  """When quantization begins and is complete, and how it goes on in between.

  Attributes:
    anneal_start: the share of the training with which it begins.
    anneal_end: the share from which on it is complete.
    parq_steepness: S, of PARQ's sigmoid; almost a line at 1.
    relax_start: the weight r of the levels with which BinaryRelax begins.
    relax_growth: the factor by which r grows until the end.

  Raises:
    ValueError: a value out of range; the message names it.

  Examples:
    >>> annealing = qj.Annealing(anneal_start=0.2, anneal_end=0.7)
    >>> [round(float(annealing.done(share)), 2) for share in (0.0, 0.3, 0.9)]
    [0.0, 0.2, 1.0]
  """

  anneal_start: float = 0.0
  anneal_end: float = 0.75
  parq_steepness: float = 10.0
  relax_start: float = 1.0
  relax_growth: float = 350.0

  def __post_init__(self):
    checks.unit_interval("anneal_start", self.anneal_start)
    checks.unit_interval("anneal_end", self.anneal_end)
    if not self.anneal_start < self.anneal_end:
      raise ValueError(
        f"anneal_start={self.anneal_start}: must be less than anneal_end="
        f"{self.anneal_end}"
      )
    # The ends of the sigmoid must differ in float32.
    if not 0.1 <= self.parq_steepness <= 1e3:
      raise ValueError(
        f"parq_steepness={self.parq_steepness}: must be from 0.1 to 1000"
      )
    checks.positive("relax_start", self.relax_start)
    if not 1 <= self.relax_growth <= checks.LARGEST:
      raise ValueError(
        f"relax_growth={self.relax_growth}: must be at least 1, and finite"
      )

  def done(self, progress: Any) -> jax.Array:
    """The share of the annealing that is done, from 0 to 1.

    Args:
      progress: the share of the training that is done.

    Raises:
      ValueError: there is none.
    """
    if progress is None:
      raise ValueError(
        "rates.progress=None: must be the share of the training that is done, "
        f"from 0 to 1, for the estimators {', '.join(ANNEALED)}"
      )
    length = self.anneal_end - self.anneal_start
    share = (jnp.asarray(progress) - self.anneal_start) / length
    return jnp.where(share > 1 - _ROUNDING, 1.0, jnp.clip(share, 0, 1))
