"""The files that a run writes into its workdir."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quped_jax import paths

_RESULTS = "summary.json", "clients.csv", "figures.jsonl"


def plain(
  value: Any, instead: Callable[[float], Any] = lambda number: None
) -> Any:
  """The value for JSON, which has no NaN or infinity: they become null.

  Args:
    value: JSON values, and floats that are not finite.
    instead: what else these become.
  """
  if isinstance(value, dict):
    return {k: plain(v, instead) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(v, instead) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return instead(value)
  return value


class Writer:
  """Writes a run's files into its workdir.

  They are `config.json`, all settings with their values; `identity.json`, what
  results follow from; `metrics.jsonl`, a line per evaluated round;
  `clients.csv`, a row per client; `figures.jsonl`, what figures need beside
  these; and `summary.json`.

  Args:
    workdir: made if it does not exist; None writes nothing.

  Raises:
    ValueError: a workdir that cannot be written.
  """

  def __init__(self, workdir: str | os.PathLike | None):
    self._folder = None if workdir is None else paths.given("workdir", workdir)
    # Beside the file, while results of this very run are there to be kept.
    self._metrics = "metrics.jsonl"
    if self._folder is None:
      return
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      with (self._folder / "metrics.jsonl").open("a"):
        pass
    except OSError as error:
      raise ValueError(
        f"workdir={str(workdir)!r}: must be a folder that can be written "
        f"({error.strerror})"
      ) from error

  def _json(self, name: str, value: Any) -> None:
    if self._folder is not None:
      text = json.dumps(plain(value), indent=2, allow_nan=False)
      paths.replace_text(self._folder / name, text + "\n")

  def start(
    self,
    settings: dict[str, Any],
    identity: dict[str, Any],
    *,
    keep: bool = False,
  ) -> None:
    """Says what the run is, and removes what an earlier run left.

    Args:
      settings: all settings with their values, for `config.json`.
      identity: what results follow from, for `identity.json`.
      keep: whether finished results, which are of this very run, stay until
        they are replaced.
    """
    if self._folder is None:
      return
    for name in () if keep else _RESULTS:
      (self._folder / name).unlink(missing_ok=True)
    self._begin("")
    self._run(settings, identity)

  def go_on(
    self,
    settings: dict[str, Any],
    identity: dict[str, Any],
    history: list[dict[str, Any]],
  ) -> None:
    """Says what the run is now, and where in `metrics.jsonl` it goes on.

    Args:
      settings: see `start`.
      identity: likewise.
      history: the records of the rounds up to a checkpoint, which are kept.
    """
    if self._folder is None:
      return
    self._begin("".join(map(_line, history)))
    self._run(settings, identity)

  def _begin(self, text: str) -> None:
    assert self._folder is not None
    kept = (self._folder / "summary.json").exists()
    self._metrics = "metrics.jsonl.new" if kept else "metrics.jsonl"
    paths.replace_text(self._folder / self._metrics, text)

  def _publish(self) -> None:
    """The records, which are complete, replace those that were kept."""
    if self._folder is not None and self._metrics != "metrics.jsonl":
      new = self._folder / self._metrics
      self._metrics = "metrics.jsonl"
      paths.replace_text(self._folder / self._metrics, new.read_text())
      new.unlink()

  def _run(self, settings: dict[str, Any], identity: dict[str, Any]) -> None:
    self._json("identity.json", identity)
    self._json("config.json", settings)

  def summary(self, summary: dict[str, Any]) -> None:
    """Writes `summary.json`."""
    self._publish()
    self._json("summary.json", summary)

  def metrics(self, record: dict[str, Any]) -> None:
    """Appends a line to `metrics.jsonl`."""
    if self._folder is not None:
      with (self._folder / self._metrics).open("a") as file:
        file.write(_line(record))

  def figures(self, records: list[dict[str, Any]]) -> None:
    """Writes `figures.jsonl`; none if nothing was recorded."""
    if self._folder is None:
      return
    path = self._folder / "figures.jsonl"
    if records:
      paths.replace_text(path, "".join(map(_line, records)))
    else:
      path.unlink(missing_ok=True)

  def clients(self, rows: list[dict[str, Any]]) -> None:
    """Writes `clients.csv`."""
    if self._folder is None:
      return
    self._publish()
    paths.replace_text(
      self._folder / "clients.csv", table([in_text(row) for row in rows])
    )


def in_text(row: Mapping[str, Any]) -> dict[str, str]:
  """A client's row as `clients.csv` has it: values as text, lists as JSON."""
  return {
    name: json.dumps(value, ensure_ascii=False)
    if isinstance(value, list)
    else str(value)
    for name, value in row.items()
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows of the same columns as CSV, with a line of their names."""
  text = io.StringIO(newline="")
  writer = csv.DictWriter(text, fieldnames=list(rows[0]))
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _line(record: dict[str, Any]) -> str:
  return json.dumps(plain(record), allow_nan=False) + "\n"
