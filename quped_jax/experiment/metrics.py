"""Where results go: files in the workdir, and a display of the progress."""

import contextlib
import copy
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

from quped_jax import paths
from quped_jax.experiment import output
from quped_jax.experiment.scores import ACCURACY, Score

_RESULTS = "summary.json", "clients.csv", "figures.jsonl"
_BAR = 20  # Characters.


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
    paths.replace_text(self._folder / "clients.csv", table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows of the same columns as CSV, with a line of their names."""
  text = io.StringIO(newline="")
  writer = csv.DictWriter(text, fieldnames=list(rows[0]))
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _line(record: dict[str, Any]) -> str:
  return json.dumps(plain(record), allow_nan=False) + "\n"


def _describe(record: dict[str, Any], seconds: Any, score: Score) -> str:
  shown = [
    f"{name.removeprefix('test/')} {score.text(value)}"
    for name, value in record.items()
    if name.startswith("test/")
  ]
  spent = f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
  return f"{', '.join(shown)}, {spent} s/round"


class _Live(rich.progress.Progress):
  """A bar of rounds, and below it what the last evaluation found.

  Of a narrow terminal the label and the bar lose what does not fit, never round
  and time; what was found goes on in the next line.
  """

  def __init__(self, rounds: int, console: rich.console.Console):
    self.status = "compiling"

    def column(width: int = 1) -> rich.table.Column:
      return rich.table.Column(no_wrap=True, min_width=width)

    super().__init__(
      rich.progress.TextColumn(
        "{task.description}", markup=False, table_column=column()
      ),
      rich.progress.BarColumn(bar_width=_BAR),
      rich.progress.MofNCompleteColumn(
        table_column=column(len(f"{rounds}/{rounds}"))
      ),
      rich.progress.TimeRemainingColumn(table_column=column(len("0:00:00"))),
      console=console,
    )

  def get_renderables(self):
    yield from super().get_renderables()
    yield rich.text.Text(self.status)


class Display:
  """Shows a run's progress: live on a terminal, as log lines elsewhere.

  If it can no longer be shown, the run goes on without.

  Args:
    console: where it is shown; the standard output by default.
    label: what to call the run; its method by default.
    quiet: shows nothing.
    lines: the most log lines that a run prints where there is no terminal.
  """

  def __init__(
    self,
    console: rich.console.Console | None = None,
    *,
    label: str | None = None,
    quiet: bool = False,
    lines: int = 10,
  ):
    console = console or rich.console.Console(quiet=quiet)
    self._console = output.forgive(console)
    self._label = label
    self._quiet = quiet
    self._lines = lines
    self._said: set[str] | None = None

  def together(self, label: str) -> "Display":
    """The same for several runs at once, which say the same only once.

    Args:
      label: what to call them.
    """
    display = copy.copy(self)
    display._label, display._said = label, set()
    return display

  def note(self, text: str) -> None:
    """Prints a line."""
    if self._quiet or (self._said is not None and text in self._said):
      return
    if self._said is not None:
      self._said.add(text)
    self._console.print(text, soft_wrap=True, markup=False, highlight=False)

  @contextlib.contextmanager
  def show(
    self, method: str, rounds: int, score: Score = ACCURACY
  ) -> Iterator[Callable[..., None]]:
    """Yields `update(round, record=None, seconds=None)`.

    Call it when rounds have been dispatched, and after an evaluation, then
    with the evaluation's record and the seconds per round.

    Args:
      method: what the run is called if the display has no label.
      rounds: the run's number of rounds.
      score: what its evaluations find.
    """
    label = self._label or method
    if self._quiet:
      yield lambda *_: None
    elif self._console.is_terminal:
      with self._live(label, rounds, score) as update:
        yield update
    else:
      yield self._log(label, rounds, score)

  @contextlib.contextmanager
  def _live(self, label: str, rounds: int, score: Score):
    with _Live(rounds, self._console) as progress:
      task = progress.add_task(label, total=rounds)

      def update(round_, record=None, seconds=None):
        if record is not None:
          progress.status = _describe(record, seconds, score)
        progress.update(task, completed=round_)

      yield update

  def _log(self, label: str, rounds: int, score: Score):
    every = max(1, rounds // self._lines)
    shown = 0

    def update(round_, record=None, seconds=None):
      nonlocal shown
      if record is None or round_ < min(rounds, shown + every):
        return
      shown = round_
      self._console.print(
        f"{label}: round {round_}/{rounds}: "
        f"{_describe(record, seconds, score)}",
        soft_wrap=True,
        markup=False,
        highlight=False,
      )
      self._console.file.flush()

    return update
