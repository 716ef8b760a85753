"""How long rounds take, without what comes between them."""

import time

from quped_jax.simulation.simulation import Simulation


class Clock:
  """Seconds per round since the last evaluation, without compiling."""

  def __init__(self, simulation: Simulation):
    self._simulation = simulation
    self.start()

  def start(self) -> None:
    """Begins a new stretch, between two evaluations."""
    self.rounds = 0
    self._compiled = self._simulation.compile_seconds()
    self._began = time.perf_counter()

  def leave_out(self, seconds: float) -> None:
    """Does not count seconds that something else took, such as a checkpoint."""
    self._began += seconds

  def seconds_per_round(self) -> float:
    compiling = self._simulation.compile_seconds() - self._compiled
    return (time.perf_counter() - self._began - compiling) / self.rounds
