"""Runs suite `accelerator` within a given time, of one checkout or two."""

import os
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.console

from experiments.benchmarks import accelerator, bench, report, torch_loop
from experiments.benchmarks.report import OTHER, THIS
from experiments.benchmarks.rows import Row
from experiments.benchmarks.worker import HERE, EndedError, Worker

# Of a GPU's memory, for each of one or two processes; PyTorch gets the rest.
_ALONE, _EACH_OF_TWO = 0.7, 0.38
# Kept for the last tables, in seconds.
_RESERVE = 3.0
# So much longer than predicted a row may take.
_MARGIN = 1.2


def seconds_since_start() -> float:
  """How long this process has run, the import of its modules included.

  Where the system does not tell, it is the time since this module's import.
  """
  try:
    stat = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2]
    ticks = float(stat.split()[19])
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")
  except (OSError, ValueError, IndexError):
    return time.monotonic() - _IMPORTED


_IMPORTED = time.monotonic()


class Costs:
  """Predicts from the rows before it how long a row takes."""

  def __init__(self):
    self._known: list[tuple[str, float]] = []

  def add(self, row: Row, seconds: float) -> None:
    self._known.append((row.group, seconds / row.weight))

  def predict(self, row: Row) -> float:
    """Seconds: the row's weight, as slow as the slowest of its group lately.

    Before any of its group it is as slow as the rest on average, and before all
    others its weight.
    """
    own = [rate for group, rate in self._known if group == row.group][-3:]
    if own:
      return row.weight * max(own)
    rates = [rate for _, rate in self._known]
    return row.weight * (sum(rates) / len(rates) if rates else 1.0)


def run(
  folder: pathlib.Path,
  console: rich.console.Console,
  *,
  minutes: float,
  quick: bool,
  against: pathlib.Path | None = None,
  only: str = "",
) -> report.Report:
  """Measures the suite.

  Args:
    folder: where results go.
    console: where they are printed.
    minutes: since the process started, after which all is over.
    quick: whether sizes are tiny.
    against: another checkout, that is measured beside this one.
    only: rows whose keys contain this regular expression.

  Raises:
    RuntimeError: this checkout's process does not start.
  """
  deadline = 60 * minutes - _RESERVE

  def left():
    return deadline - seconds_since_start()

  share = _ALONE if against is None else _EACH_OF_TWO
  checkouts = {THIS: HERE}
  if against is not None:
    checkouts[OTHER] = against
  workers = {
    name: Worker(checkout, quick=quick, memory_share=share)
    for name, checkout in checkouts.items()
  }
  try:
    machines, reasons = _start(workers, left)
    shown = report.Report(folder, console, machines, quick=quick)
    for reason in reasons:
      shown.say(reason)
    if not torch_loop.available():
      shown.say(bench.NO_TORCH)
    measure(
      [row for row in accelerator.rows_here() if re.search(only, row.key)],
      {name: workers[name].ask for name in machines},
      shown,
      left,
    )
    shown.finish()
    return shown
  finally:
    for worker in workers.values():
      worker.close()


def _start(workers: Mapping[str, Worker], left: Callable[[], float]):
  """{checkout: what its process says of itself}, and who did not start."""
  machines: dict[str, dict[str, Any]] = {}
  reasons = []
  for worker in workers.values():
    worker.launch()
  for name, worker in workers.items():
    try:
      described = worker.start(left())
    except EndedError as error:
      if name == THIS:
        raise RuntimeError(f"nothing was measured: {error}") from error
      reasons.append(f"{worker.checkout} is left out: {error}")
      continue
    machines[name] = {**described, "start_seconds": worker.start_seconds}
  return machines, reasons


def measure(
  rows: Sequence[Row],
  ask: Mapping[str, Callable[[str, float], dict[str, Any]]],
  shown: report.Report,
  left: Callable[[], float],
) -> None:
  """Measures rows as long as there is time, checkout by checkout.

  Args:
    rows: in their order. One that would take too long is left out, and those
      after it still have their chance.
    ask: {checkout: measures a row, given its key and the seconds that are
      left}; raises EndedError.
    shown: takes what was measured.
    left: how many seconds are left.
  """
  costs = {name: Costs() for name in ask}
  for row in rows:
    for name in ask:
      if name != THIS and not row.ours:
        continue
      time_left = left()
      predicted = _MARGIN * costs[name].predict(row)
      if predicted > time_left:
        reason = f"takes about {predicted:.0f} s of {max(time_left, 0):.0f}"
        shown.add(row, name, {"left_out": reason})
        continue
      begin = time.monotonic()
      try:
        result = ask[name](row.key, time_left)
      except EndedError as error:
        result = {"failed": str(error)}
      if "missing" not in result:
        costs[name].add(row, time.monotonic() - begin)
      shown.add(row, name, result)
