"""The display of a run's progress: live, or as lines."""

import copy
import math
import time
from collections.abc import Callable, Mapping

import rich.console

from quped_jax.experiment import amounts, output, scores
from quped_jax.experiment.callbacks import progress
from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
)
from quped_jax.experiment.scores import Score
from quped_jax.quantization import codebook


class Display(Callback):
  """Shows a run's progress: live on a terminal or in a notebook, else as lines.

  The first line says what is going to happen. Then there are the round, the
  scores of the last evaluation, seconds per round, the time left, the bytes
  that were exchanged so far, and how many clients diverged. If it can no longer
  be shown, the run goes on without.

  Args:
    console: where it is shown; the standard output by default.
    label: what to call the run; its method by default.
    quiet: shows nothing.
    lines: about how many lines a run prints where it cannot be live.

  Examples:
    >>> display = qj.Display(label="seed 1", lines=3)  # for `qj.run`
    >>> display.note("Lines of your own go the same way.")
    Lines of your own go the same way.
    >>> qj.Display(quiet=True).note("This one shows nothing.")
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
    self._shown: _Lines | _Live | None = None

  def called(self, label: str) -> "Display":
    """The same display of a run that is called something else."""
    display = copy.copy(self)
    display._label, display._shown = label, None
    return display

  def on_begin(self, start: RunStart) -> None:
    """Says what is going to happen."""
    if self._quiet:
      return
    label = self._label or start.settings.method
    text = in_words(start, self._label)
    if self._is_live:
      self.note(text)
      self._shown = _Live(self._console, label, start)
    else:
      self.note(f"{text}; compiling")
      self._shown = _Lines(self.note, label, start, self._lines)

  @property
  def _is_live(self) -> bool:
    return self._console.is_terminal or self._console.is_jupyter

  def on_note(self, text: str) -> None:
    """Prints a line."""
    self.note(text)

  def note(self, text: str) -> None:
    """Prints a line, also outside a run."""
    if self._quiet:
      return
    # Lines of a log are not wrapped.
    self._console.print(
      text, soft_wrap=not self._is_live, markup=False, highlight=False
    )
    self._console.file.flush()

  def on_rounds(self, first: int, last: int) -> None:
    """Shows that the rounds before them were given to the devices."""
    del last
    if self._shown:
      self._shown.rounds(first - 1)

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Shows what was found."""
    if self._shown:
      self._shown.evaluated(evaluation)

  def on_end(self, end: RunEnd) -> None:
    """Leaves what is shown as it is."""
    if self._shown:
      self._shown.close()
      self._shown = None
    if end.reason == "stopped":
      self.note(f"stopped after round {end.round}: {end.note}")


def in_words(start: RunStart, label: str | None = None) -> str:
  """What is going to happen, in words.

  Args:
    start: of the run.
    label: what it is called.
  """
  settings = start.settings
  rounds = amounts.count(settings.rounds, "round")
  if start.round:
    rounds = f"rounds {start.round + 1} to {settings.rounds}"
  count, devices = start.clients_at_once, start.devices
  where = f" on {devices} devices" if devices > 1 else ""
  text = (
    f"{settings.method} on {start.dataset}: "
    f"{amounts.count(settings.clients, 'client')} "
    f"({codebook.describe_bits(settings.turns)}), {start.model}, {rounds}; "
    f"{amounts.count(count, 'client')} at once{where}"
  )
  if start.workdir is not None:
    text += f"; results go to {start.workdir}"
  return f"{label}: {text}" if label else text


def found_in_words(metrics: Mapping[str, float], score: Score) -> str:
  """The scores of an evaluation on test data, in words."""
  return ", ".join(
    f"{name.removeprefix('test/')} {score.text(value)}"
    for name, value in metrics.items()
    if name.startswith("test/")
  )


def costs_in_words(evaluation: Evaluation) -> str:
  """What a run has cost so far, in words."""
  seconds = evaluation.seconds_per_round
  parts = []
  if not math.isnan(seconds):
    spent = f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
    parts.append(f"{spent} s/round")
  if evaluation.bytes_up or evaluation.bytes_down:
    parts.append(f"{amounts.size(evaluation.bytes_up)} up")
    parts.append(f"{amounts.size(evaluation.bytes_down)} down")
  if count := len(evaluation.diverged):
    parts.append(f"{amounts.count(count, 'client')} diverged")
  return ", ".join(parts)


class _Left:
  """How long the rounds that are left take, evaluations included."""

  def __init__(self, rounds: int):
    self._rounds = rounds
    self._first: tuple[int, float] | None = None

  def after(self, evaluation: Evaluation) -> str:
    """In words; "" if it is not known, or nothing is left."""
    round_, now = evaluation.round, time.monotonic()
    left, each = self._rounds - round_, evaluation.seconds_per_round
    if self._first is None:
      # The time before it was that of compiling too.
      self._first = round_, now
    else:
      each = (now - self._first[1]) / (round_ - self._first[0])
    if not left or math.isnan(each):
      return ""
    return f"{amounts.clock(left * each)} left"


class _Lines:
  """A line for some evaluations, and for the last."""

  def __init__(self, say: Callable[[str], None], label, start, lines: int):
    self._say, self._label = say, label
    self._rounds = start.settings.rounds
    self._score = scores.BY_NAME[start.score]
    self._every, self._next = max(1, self._rounds // lines), 0
    self._left = _Left(self._rounds)

  def rounds(self, done: int) -> None:
    """Says nothing."""

  def evaluated(self, evaluation: Evaluation) -> None:
    left, round_ = self._left.after(evaluation), evaluation.round
    if round_ < min(self._rounds, self._next):
      return
    self._next = round_ + self._every
    found = found_in_words(evaluation.metrics, self._score)
    told = ", ".join(filter(None, (found, costs_in_words(evaluation), left)))
    self._say(f"{self._label}: round {round_}/{self._rounds}: {told}")

  def close(self) -> None:
    """Says nothing."""


class _Live:
  """A bar of rounds, and below it what the last evaluation found."""

  def __init__(self, console: rich.console.Console, label, start):
    self._score = scores.BY_NAME[start.score]
    self._left = _Left(start.settings.rounds)
    self._progress = progress.Progress(label, start.settings.rounds)
    self._progress.done = start.round
    self._progress.said = ("compiling",)
    self._console, self._shown = console, None

  def _show(self) -> None:
    # Only now, so that what there is to say of the run comes before it.
    if self._shown is None:
      self._shown = progress.show(self._console, self._progress)
    else:
      self._shown.refresh()

  def rounds(self, done: int) -> None:
    self._progress.done = done
    # When further rounds are given to the devices, the first are compiled.
    if self._shown and self._progress.said == ("compiling",):
      self._progress.said = ("not evaluated yet",)
    self._show()

  def evaluated(self, evaluation: Evaluation) -> None:
    self._progress.done = evaluation.round
    self._progress.left = self._left.after(evaluation)
    found = found_in_words(evaluation.metrics, self._score)
    told = found, costs_in_words(evaluation)
    self._progress.said = tuple(filter(None, told))
    self._show()

  def close(self) -> None:
    if self._shown:
      self._shown.stop()
