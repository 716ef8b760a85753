"""One suite's measurements, its tables and its file."""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import rich.console
import rich.table

from experiments.benchmarks import machine, timing
from experiments.benchmarks.timing import Contestant
from quped_jax import paths
from quped_jax.command_line import results
from quped_jax.experiment import blocks

NO_TORCH = "PyTorch is not installed, so its rows are left out."


class Bench:
  """Measures groups of contestants and keeps a row of each.

  Attributes:
    suite: name of the suite.
    machine: what `machine.describe` returned; its matrix rates grow.
    quick: whether sizes are tiny, for tests; its measurements mean little.
    folder: where files go.
    rows: all rows so far.
    derived: numbers other than times, such as shares and memory.
  """

  def __init__(
    self,
    suite: str,
    described: dict[str, Any],
    folder: pathlib.Path,
    *,
    repetitions: int,
    quick: bool,
    console: rich.console.Console | None = None,
  ):
    self.suite = suite
    self.machine = described
    self.folder = folder
    self.quick = quick
    self.rows: list[dict[str, Any]] = []
    self.derived: list[dict[str, Any]] = []
    self._repetitions = 2 if quick else repetitions
    self._console = console or results.make_console()

  @property
  def stem(self) -> str:
    """The end of file names: the device."""
    return self.machine["device"]

  def measure(
    self,
    group: str,
    unit: str,
    contestants: Sequence[Contestant],
    *,
    sizes: dict[str, Any],
    reference: str,
  ) -> dict[str, dict[str, Any]]:
    """Times a group and prints its table.

    Args:
      group: what is compared.
      unit: the unit of work for which times are reported.
      contestants: what competes.
      sizes: sizes of the work.
      reference: name of the contestant whose time counts as 1; the first if
        there is none of that name.

    Returns:
      The rows, by name of the contestant.
    """
    least = {"at_least": 0.0} if self.quick else {}
    times = timing.measure(contestants, self._repetitions, **least)
    if reference not in times:
      reference = contestants[0].name
    base = times[reference].minimum
    self._update_matrix_rates()
    rows = {}
    for contestant in contestants:
      measured = times[contestant.name]
      rate = None
      if contestant.flops is not None:
        rate = contestant.flops / measured.minimum / 1e9
      rows[contestant.name] = {
        "group": group,
        "name": contestant.name,
        "unit": unit,
        "sizes": {**sizes, **contestant.details},
        "seconds_min": measured.minimum,
        "seconds_median": measured.median,
        "spread": measured.spread,
        "repetitions": measured.repetitions,
        "gflops": rate,
        "dtype": contestant.dtype,
        "matrix_rate_fraction": self._fraction(rate, contestant.dtype),
        "reference": reference,
        "ratio": measured.minimum / base,
      }
    self.rows += rows.values()
    table = _table(group, unit, sizes, list(rows.values()))
    blocks.print_table(self._console, table)
    return rows

  def _update_matrix_rates(self) -> None:
    """Measures the machine's rates along with every group; keeps the best."""
    best = self.machine["matrix_gflops"]
    for dtype, rate in machine.matrix_rates(self.quick).items():
      best[dtype] = max(best[dtype], rate)

  def _fraction(self, rate: float | None, dtype: str) -> float | None:
    return None if rate is None else rate / self.machine["matrix_gflops"][dtype]

  def derive(self, group: str, values: dict[str, dict[str, Any]]) -> None:
    """Keeps and prints numbers that are not a contestant's times.

    Args:
      group: what they are.
      values: by name, the same fields for each.
    """
    self.derived += [
      {"group": group, "name": name, **fields}
      for name, fields in values.items()
    ]
    table = _empty_table(group, next(iter(values.values())))
    for name, fields in values.items():
      table.add_row(name, *map(_short, fields.values()))
    blocks.print_table(self._console, table)

  def note(self, text: str) -> None:
    """Prints a caption."""
    self._console.print(text, highlight=False)

  def write(self) -> pathlib.Path:
    """Writes `SUITE_DEVICE.json`."""
    # Fractions are of the best rates over all groups.
    for row in self.rows:
      fraction = self._fraction(row["gflops"], row["dtype"])
      row["matrix_rate_fraction"] = fraction
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self.folder / f"{self.suite}_{self.stem}.json"
    content = {
      "suite": self.suite,
      "quick": self.quick,
      **self.machine,
      "rows": self.rows,
      "derived": self.derived,
    }
    paths.replace_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _short(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, str):
    return value
  if not isinstance(value, float):
    return f"{value:,}"
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _milliseconds(seconds: float) -> str:
  value = 1000 * seconds
  return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _empty_table(title: str, columns: Iterable[str]) -> rich.table.Table:
  table = blocks.make_table(title)
  table.add_column("")
  for name in columns:
    table.add_column(name.replace("_", " "), justify="right")
  return table


def _table(
  group: str, unit: str, sizes: dict[str, Any], rows: list[dict[str, Any]]
) -> rich.table.Table:
  described = ", ".join(f"{key} {value}" for key, value in sizes.items())
  columns = ["min", "median", "IQR", "runs", "ratio"]
  counted = any(row["gflops"] is not None for row in rows)
  if counted:
    columns += ["GFLOP/s", "of dot"]
  table = _empty_table(f"{group}: milliseconds per {unit}", columns)
  table.caption = f"{described}; ratio of minima to {rows[0]['reference']!r}"
  for row in rows:
    cells = [
      *(
        _milliseconds(row[field])
        for field in ("seconds_min", "seconds_median", "spread")
      ),
      str(row["repetitions"]),
      f"{row['ratio']:.2f}",
    ]
    rate, fraction = row["gflops"], row["matrix_rate_fraction"]
    if counted:
      cells.append("" if rate is None else f"{rate:.3g}")
      cells.append("" if fraction is None else f"{100 * fraction:.0f} %")
    table.add_row(row["name"], *cells)
  return table
