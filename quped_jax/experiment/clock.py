"""How long rounds take, without what comes between them."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator


class Clock:
  """Seconds per round between two evaluations, without compiling.

  Args:
    compile_seconds: how long was spent on compiling so far.
  """

  def __init__(self, compile_seconds: Callable[[], float]):
    self._compile_seconds = compile_seconds
    self._rounds, self._seconds = 0, 0.0

  @contextlib.contextmanager
  def running(self, rounds: int = 0) -> Iterator[None]:
    """Counts the time within, which some rounds take, or the rest of them."""
    compiled, began = self._compile_seconds(), time.perf_counter()
    yield
    compiling = self._compile_seconds() - compiled
    self._seconds += time.perf_counter() - began - compiling
    self._rounds += rounds

  def seconds_per_round(self) -> float:
    """Of the rounds since it was last asked; NaN if there were none."""
    rounds, seconds = self._rounds, self._seconds
    self._rounds, self._seconds = 0, 0.0
    return seconds / rounds if rounds else math.nan
