"""Seconds of several contestants, measured side by side.

A machine's speed drifts, and other work comes and goes, so times taken minutes
apart cannot be compared. Here all contestants of a group take turns, in an
order that changes from one repetition to the next, and only ratios within the
group are used.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# One repetition takes at least this many seconds: a shorter run is repeated
# within it.
_AT_LEAST = 0.05
# All repetitions of one contestant take at most this many seconds by default.
_AT_MOST = 30.0
# In this time, threads of the last contestant that wait for more work go to
# sleep.
_PAUSE = 0.005


class Contestant(NamedTuple):
  """One way of doing the work of a group.

  Attributes:
    name: name within its group.
    run: does the work once and waits for the result.
    units: how many units of work one run is, such as client steps.
    flops: floating-point operations of one unit; None if not counted.
    dtype: that of the matrix products with whose rate flops are compared.
    details: further fields of its row.
    warm: whether its first run compiles nothing and may be timed; for
      contestants that take many seconds.
  """

  name: str
  run: Callable[[], Any]
  units: float
  flops: float | None = None
  dtype: str = "float32"
  details: Mapping[str, Any] = {}
  warm: bool = False


class Times(NamedTuple):
  """How long one unit of a contestant's work took.

  Attributes:
    minimum: seconds, of the fastest repetition.
    median: seconds.
    spread: seconds, from the first to the third quartile.
    repetitions: how many there were.
  """

  minimum: float
  median: float
  spread: float
  repetitions: int


def _seconds(run: Callable[[], Any], times: int) -> float:
  start = time.perf_counter()
  for _ in range(times):
    run()
  return (time.perf_counter() - start) / times


def measure(
  contestants: Sequence[Contestant],
  repetitions: int,
  *,
  at_least: float = _AT_LEAST,
  at_most: float | None = None,
) -> dict[str, Times]:
  """Times all contestants in turn.

  Args:
    contestants: all with different names. Each runs once untimed, which
      compiles it, unless it is warm; then once to see how long it takes.
    repetitions: how many times each is timed; fewer where it is slow.
    at_least: minimum seconds of one repetition.
    at_most: seconds of all repetitions of one contestant; a slow one gets fewer
      of them, but at least one.

  Returns:
    Per contestant, the seconds of one unit of its work.
  """
  at_most = _AT_MOST if at_most is None else at_most
  repeats, turns, seconds = {}, {}, {}
  for contestant in contestants:
    name, run = contestant.name, contestant.run
    if not contestant.warm:
      run()
    first = _seconds(run, 1)
    repeats[name] = max(math.ceil(at_least / max(first, 1e-7)), 1)
    turns[name] = max(min(repetitions, int(at_most / first)), 1)
    # A second run of a contestant this slow would tell nothing more.
    seconds[name] = [first] if first > at_most else []
  gc.collect()
  gc.disable()
  try:
    for turn in range(repetitions):
      order = list(contestants)
      random.Random(turn).shuffle(order)
      for name, run, *_ in order:
        if len(seconds[name]) < turns[name]:
          time.sleep(_PAUSE)
          seconds[name].append(_seconds(run, repeats[name]))
  finally:
    gc.enable()
  return {c.name: _summary(seconds[c.name], c.units) for c in contestants}


def _summary(seconds: list[float], units: float) -> Times:
  values = np.asarray(seconds) / units
  low, middle, high = np.percentile(values, [25, 50, 75])
  return Times(
    float(values.min()), float(middle), float(high - low), len(values)
  )
