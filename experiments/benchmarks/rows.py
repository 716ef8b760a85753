"""A row of suite `accelerator`: what is measured, and what comes of it."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.benchmarks import timing
from experiments.benchmarks.timing import Contestant

_REPETITIONS = 5
# Seconds of all repetitions of a row.
_AT_MOST = 2.0


class MissingError(Exception):
  """What a row measures is not in this checkout."""


class Work(NamedTuple):
  """A row's work, ready to be run.

  Attributes:
    run: does it once and waits; the first call may compile.
    units: how many units of work that is.
    compile_seconds: `() -> seconds` of tracing, lowering and compiling so far;
      None where nothing is compiled.
    details: `() -> fields`, asked for at the end.
  """

  run: Callable[[], Any]
  units: float
  compile_seconds: Callable[[], float] | None = None
  details: Callable[[], Mapping[str, Any]] = dict


class Row(NamedTuple):
  """What is measured.

  Attributes:
    group: what it belongs to.
    name: within its group.
    unit: of work, for which times are reported.
    weight: about how many seconds it takes on a GPU, compilation included, of
      a checkout.
    make: `quick -> Work`; raises MissingError.
    ours: whether it measures the package, and not something to compare with.
  """

  group: str
  name: str
  unit: str
  weight: float
  make: Callable[[bool], Work]
  ours: bool = True

  @property
  def key(self) -> str:
    return f"{self.group}: {self.name}"


def measure(row: Row, quick: bool) -> dict[str, Any]:
  """Measures a row.

  Returns:
    `{"missing": reason}`, `{"failed": error}`, or the seconds of one unit of
    work; `first_seconds` from the start to the end of the first run, and
    `compile_seconds` among them; and details.
  """
  gc.collect()  # What the row before has left on the device.
  start = time.perf_counter()
  try:
    work = row.make(quick)
    work.run()
    first = time.perf_counter() - start
    contestant = Contestant(row.name, work.run, work.units, warm=True)
    times = timing.measure(
      [contestant],
      2 if quick else _REPETITIONS,
      at_most=_AT_MOST,
      **({"at_least": 0.0} if quick else {}),
    )[row.name]
    compiling = work.compile_seconds
    return {
      "seconds_min": times.minimum,
      "seconds_median": times.median,
      "spread": times.spread,
      "repetitions": times.repetitions,
      "first_seconds": first,
      "compile_seconds": compiling() if compiling else None,
      "details": dict(work.details()),
    }
  except MissingError as error:
    return {"missing": str(error)}
  except Exception as error:  # Of another checkout, or of a full device.
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return {"failed": f"{type(error).__name__}: {reason}"[:300]}
