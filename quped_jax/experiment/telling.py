"""Tells callbacks what happens to a run, and the run what they ask of it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from quped_jax.experiment.callbacks import base
from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
  StopRun,
)
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.resume import Interrupted
from quped_jax.simulation import processes


class Wish(NamedTuple):
  """What callbacks ask of a run.

  Attributes:
    stop: why it is to stop, in words; None if it is not.
    failed: whether a callback raised an error, which is to end it.
  """

  stop: str | None = None
  failed: bool = False


def telling_of(
  callbacks: Sequence[Callback], display: Callback | None
) -> "Telling":
  """What tells a user's callbacks of a run; of several processes, the first.

  Args:
    callbacks: the user's own.
    display: shows the run; by default one that is among the callbacks, or else
      a `Display`.

  Raises:
    ValueError: they are no callbacks.
  """
  own = base.check(callbacks)
  if not processes.is_first():
    return Telling()
  if display is None and not any(isinstance(x, Display) for x in own):
    display = Display()
  return Telling(own, display)


class Telling:
  """Tells the callbacks of one run what happens to it, in their order.

  If the run begins again with fewer clients at once, it is told nothing twice.
  What a callback raises is kept until the run asks.

  Args:
    callbacks: a user's own.
    display: shows the run, before the others are told.

  Attributes:
    display: likewise; may be replaced.
    error: the first error that a callback raised; None if there is none.
    saved: `() -> text`, from where the run can go on.
  """

  def __init__(
    self, callbacks: Sequence[Callback] = (), display: Callback | None = None
  ):
    self._own = list(callbacks)
    self.display = display or Callback()
    self._begun: list[Callback] = []
    self._failed: list[Callback] = []
    self.error: Exception | None = None
    self.saved: Callable[[], str] = str
    self._stop: str | None = None
    self._round = 0

  def begin(self, start: RunStart, notes: Sequence[str], goes_on: str) -> None:
    """See `Callback.on_begin`; also for a display that came later.

    Args:
      start: what the run is.
      notes: what else there is to say of it.
      goes_on: from where it goes on, in words, each time that it does; or "".
    """
    new = [x for x in self._all() if not _is_in(self._begun, x)]
    self._begun += new
    if start.history:
      self._round = max(self._round, int(start.history[-1]["round"]))
    self._tell(new, "on_begin", start)
    for note in notes:
      self._tell(new, "on_note", note)
    if goes_on:
      self.note(goes_on)

  def note(self, text: str) -> None:
    """See `Callback.on_note`."""
    self._tell(self._all(), "on_note", text)

  def rounds(self, first: int, last: int) -> None:
    """See `Callback.on_rounds`."""
    self._tell(self._all(), "on_rounds", first, last)

  def evaluated(self, evaluation: Evaluation) -> None:
    """See `Callback.on_evaluation`."""
    if evaluation.round > self._round:
      self._round = evaluation.round
      self._tell(self._all(), "on_evaluation", evaluation)

  def wish(self, evaluated: bool) -> Wish:
    """What the callbacks ask of the run.

    Args:
      evaluated: whether the last round was evaluated. Then several processes
        ask together; in between none waits for another.
    """
    own = Wish(self._stop, self.error is not None)
    if evaluated:
      return Wish(*processes.exchange(list(own))[0])
    return own if jax.process_count() == 1 else Wish()

  def raise_error(self) -> None:
    """Raises what a callback raised, if it was in this process."""
    if self.error is not None:
      self.error.add_note(self.saved())
      raise self.error

  def done(self, summary: Mapping[str, Any]) -> None:
    """Tells that the run has finished or stopped, and has written its results.

    Raises:
      Exception: what a callback raises now, or raised since the last round.
    """
    reason, note = "finished", ""
    if "stopped" in summary:
      reason, note = "stopped", summary["stopped"]["why"]
    self._end(reason, copy.deepcopy(dict(summary)), None, note)
    if self.error is not None:
      self.error.add_note("the run is done, and its results are written")
      raise self.error

  def failed(self, error: BaseException) -> None:
    """Tells that an error ends the run, and adds to it what is saved.

    Args:
      error: gets notes.
    """
    before, self.error = self.error, None
    reason = "error"
    if isinstance(error, KeyboardInterrupt):
      reason = "interrupted"
    elif isinstance(error, DivergenceError):
      reason = "diverged"
    # `Interrupted` says it itself, and what a callback raised has it.
    says_it = isinstance(error, Interrupted) or error is before
    if isinstance(error, (OSError, KeyboardInterrupt)) and not says_it:
      error.add_note(self.saved())
    self._end(reason, None, error, self.saved())
    for other in (before, self.error):
      if other is not None and other is not error:
        notes = "".join(f"; {note}" for note in other.__notes__)
        error.add_note(f"beside it, {type(other).__name__}: {other}{notes}")

  def _end(self, reason, summary, error, note) -> None:
    begun, self._begun = self._begun, []
    end = RunEnd(reason, self._round, summary, error, note)
    self._tell(begun, "on_end", end)

  def _all(self) -> list[Callback]:
    return [self.display, *self._own]

  def _tell(
    self, callbacks: Sequence[Callback], event: str, *args: Any
  ) -> None:
    """Calls those that have raised no error."""
    for callback in callbacks:
      if _is_in(self._failed, callback):
        continue
      try:
        getattr(callback, event)(*args)
      except StopRun as stop:
        self._stop = self._stop or stop.why
      except Exception as error:  # Whatever a user's code raises.
        self._failed.append(callback)
        if self.error is None:
          error.add_note(f"in the callback {type(callback).__name__}.{event}")
          self.error = error


def _is_in(callbacks: Sequence[Callback], callback: Callback) -> bool:
  """By identity, since users may define what is equal."""
  return any(x is callback for x in callbacks)
