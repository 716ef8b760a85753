"""What suite `accelerator` is held against: an aim, and the rows it follows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmarks import accelerator as suite

# What was measured of a row, by the row's key.
Results = Mapping[str, Mapping[str, Any]]

# A value, or None where its rows were not measured.
_Value = Callable[[Results, float], float | None]


class Aim(NamedTuple):
  """A number and its bound.

  Attributes:
    what: the number.
    where: the devices for which the bound holds, as a part of their name:
      "h200", "cpu", or "" for every GPU.
    rows: keys of the rows that it follows from.
    value: `(results, seconds until the process was ready) -> number`.
    bound: of the number.
    at_least: whether it is to be at least the bound, and not at most.
  """

  what: str
  where: str
  rows: tuple[str, ...]
  value: _Value
  bound: float
  at_least: bool = False

  def holds_on(self, device: str) -> bool:
    """Whether the bound is one for this device."""
    on_cpu = device.startswith("cpu")
    return self.where in device if self.where else not on_cpu

  def is_met(self, value: float) -> bool:
    return value >= self.bound if self.at_least else value <= self.bound


def _step(name: str) -> str:
  return f"{suite.STEPS}: {name}"


def _time(what: str, key: str, bound: float) -> Aim:
  def value(results, start):
    del start
    return 1000 * results[key]["seconds_min"]

  return Aim(what, "h200", (key,), value, bound)


def _ratio(
  what: str,
  rows: tuple[str, str],
  bound: float,
  *,
  where: str = "",
  at_least: bool = False,
) -> Aim:
  def value(results, start):
    del start
    first, second = (results[key]["seconds_min"] for key in rows)
    return first / second

  return Aim(what, where, rows, value, bound, at_least)


def _copies(results: Results, start: float) -> float | None:
  del start
  return results[_MEMORY]["details"]["copies_of_state"]


def _first_round(results: Results, start: float) -> float | None:
  return start + results[_step("QuPeD mixed, float32")]["first_seconds"]


_MEMORY = f"{suite.MEMORY}: MLP, 1000 clients, auto"
_DIGITS = f"{suite.SMALL}: digits MLP, SGD, 16 clients"

AIMS: Sequence[Aim] = (
  _ratio(
    "QuPeD mixed / 1 bit, float32",
    (_step("QuPeD mixed, float32"), _step("QuPeD 1 bit, float32")),
    1.2,
  ),
  _time("QuPeD 1 bit, ms, float32", _step("QuPeD 1 bit, float32"), 0.28),
  _time("QuPeD 1 bit, ms, bfloat16", _step("QuPeD 1 bit, bfloat16"), 0.20),
  _time("QuPeD mixed, ms, float32", _step("QuPeD mixed, float32"), 0.33),
  _time("QuPeD mixed, ms, bfloat16", _step("QuPeD mixed, bfloat16"), 0.24),
  _time("SGD, ms, float32", _step("SGD, float32"), 0.065),
  _time("SGD, ms, bfloat16", _step("SGD, bfloat16"), 0.040),
  _time("digits MLP, 16 clients, 10 steps, ms a round", _DIGITS, 0.6),
  _ratio(
    "PyTorch loop / ours, CNN1, 8 clients",
    (
      f"{suite.TORCH}: loop over clients, 8 clients",
      f"{suite.TORCH}: ours, SGD, 8 clients",
    ),
    12,
    at_least=True,
  ),
  _ratio(
    "PyTorch loop / ours, CNN1, 50 clients",
    (
      f"{suite.TORCH}: loop over clients, 50 clients",
      _step("SGD, float32"),
    ),
    25,
    at_least=True,
  ),
  Aim(
    "seconds to the first round of QuPeD mixed",
    "",
    (_step("QuPeD mixed, float32"),),
    _first_round,
    15,
  ),
  Aim("copies of 1000 clients' states", "", (_MEMORY,), _copies, 1.6),
  _ratio(
    "deterministic / not, QuPeD mixed",
    (
      _step("QuPeD mixed, float32, deterministic"),
      _step("QuPeD mixed, float32"),
    ),
    1.05,
  ),
  _ratio(
    "QuPeD mixed / uniform 4 bits",
    (_step("QuPeD mixed, float32"), _step("QuPeD 4 bits, float32")),
    1.10,
    where="cpu",
  ),
)


def table(
  results: Results, start_seconds: float, device: str, quick: bool
) -> list[dict[str, Any]]:
  """All aims with what was measured.

  Args:
    results: what was measured.
    start_seconds: from the start of the process until it could measure.
    device: its name, as `machine.device_name()` gives it.
    quick: whether sizes were tiny, for which no bound holds.

  Returns:
    `{"aim", "bound", "value", "verdict"}` for each: "met", "not met", "not
    measured", or for which devices the bound holds if this is another.
  """
  lines = []
  for aim in AIMS:
    measured = all("seconds_min" in results.get(k, {}) for k in aim.rows)
    value = aim.value(results, start_seconds) if measured else None
    if value is None:
      verdict = "not measured"
    elif quick:
      verdict = "tiny sizes"
    elif not aim.holds_on(device):
      verdict = f"of {aim.where or 'a GPU'}"
    else:
      verdict = "met" if aim.is_met(value) else "not met"
    lines.append(
      {
        "aim": aim.what,
        "bound": f"{'>=' if aim.at_least else '<='} {aim.bound:g}",
        "value": value,
        "verdict": verdict,
      }
    )
  return lines
