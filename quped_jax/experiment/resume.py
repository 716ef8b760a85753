"""What makes a run resumable: signals, progress, and checkpoints."""

import dataclasses
import os
import signal
import threading
import time
import warnings
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from quped_jax import kinds
from quped_jax.experiment import former_names
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import summary as summary_lib
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.figures import records as figure_records
from quped_jax.experiment.settings import Settings
from quped_jax.files import checkpoint
from quped_jax.files.differences import refusal
from quped_jax.simulation import processes
from quped_jax.simulation.state import SimulationState


class Interrupted(KeyboardInterrupt):
  """A signal ended a run, after a checkpoint.

  Args:
    number: the signal's number.
    note: what was saved, in words.
  """

  def __init__(self, number: int, note: str):
    super().__init__(f"stopped by {signal.Signals(number).name}: {note}")
    self.signal = number


# Of a terminal that is gone; not on all systems.
_HANGUP = getattr(signal, "SIGHUP", 0)


def _is_ours(number: int) -> bool:
  """Whether a signal may be caught: not if it is ignored, or caught in C."""
  return signal.getsignal(number) not in (signal.SIG_IGN, None)


class Signals:
  """Remembers the first SIGTERM, SIGHUP or Ctrl-C, instead of ending at once.

  A second one ends the process as usual, unless it is SIGHUP. A signal that is
  ignored, as under nohup, stays so. Where there are several processes, JAX
  catches SIGTERM and tells the others, and other signals are announced to them.

  Args:
    saves: whether a checkpoint can be saved. If not, only Ctrl-C is caught,
      which JAX may lose, or not survive, while it computes. Only the main
      thread can catch signals.
  """

  def __init__(self, saves: bool):
    main = threading.current_thread() is threading.main_thread()
    self._together = jax.process_count() > 1
    if self._together:
      numbers = (signal.SIGINT, _HANGUP) if _preemption_service() else ()
    else:
      numbers = (signal.SIGINT, _HANGUP, signal.SIGTERM)
      numbers = numbers if saves else numbers[:1]
    self._numbers = [n for n in numbers if n and main and _is_ours(n)]
    self._before: dict[int, Any] = {}
    self._seen = 0
    self._turn = 0

  def __enter__(self):
    for number in self._numbers:
      self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_):
    self._restore()

  def _restore(self, but: int = 0):
    for number, handler in self._before.items():
      if number != but:
        signal.signal(number, handler)

  def _note(self, number, frame):
    del frame
    if self._seen:
      return
    self._seen = number
    # The end of a terminal may be told by its system and by its shell.
    self._restore(but=_HANGUP)
    if self._together:
      processes.announce(number)

  def seen(self) -> int:
    """The signal that is to end the run now, or 0.

    With several processes it is collective: each asks after the same rounds.
    """
    self._turn += 1
    if not self._together:
      return self._seen
    if not _preemption_service():
      return 0
    ends = multihost_utils.reached_preemption_sync_point(self._turn)
    return processes.announced() if ends else 0


def _preemption_service() -> bool:
  """Whether processes agree on the round after which a signal ends them."""
  return getattr(jax.config, "jax_enable_preemption_service", True)


@dataclasses.dataclass
class Progress:
  """How far a run has come, beside its state; JSON values.

  Attributes:
    history: a record per evaluated round.
    best: {split: the evaluated round that is best on it}, each with its number,
      its value and the table of scores on test data, always as "accuracy".
    seconds: seconds per round, of each stretch between evaluations.
    finetuning: whether the fine-tuning phase has begun.
    figures: what figures need beside the history, see
      `quped_jax.experiment.figures.records`.
  """

  history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  best: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  seconds: list[float] = dataclasses.field(default_factory=list)
  finetuning: bool = False
  figures: list[dict[str, Any]] = dataclasses.field(default_factory=list)

  def look(self, record: Any, scores: Any, primary_variant: str) -> None:
    """Records an evaluated round, where it is the best so far."""
    for split, table in scores.items():
      value = float(np.nanmean(table[primary_variant]))
      if split not in self.best or value > self.best[split]["value"]:
        self.best[split] = {
          "round": record["round"],
          "value": value,
          "accuracy": summary_lib.table(scores["test"]),
        }

  def value(self, round_: int, primary_variant: str) -> float | None:
    """By which checkpoints are kept: the score, if the round was evaluated."""
    if not self.history or self.history[-1]["round"] != round_:
      return None
    record = self.history[-1]
    split = "validation" if "validation" in self.best else "test"
    return record[f"{split}/{primary_variant}"]

  def best_rounds(self, score: str = "accuracy") -> dict[str, Any]:
    """The best rounds, on validation and on test data, for `summary.json`.

    Args:
      score: the name of what they are best by.
    """
    chosen = self.best.get("validation", {"round": None, "accuracy": None})
    oracle = self.best["test"]
    return {
      "best_round": chosen["round"],
      f"{score}_best_round": chosen["accuracy"],
      "oracle_best": {
        "round": oracle["round"],
        score: oracle["accuracy"],
      },
    }


_NUMBER = kinds.number(nan=True)
_BEST = kinds.record(
  {
    "round": kinds.whole(1),
    "value": _NUMBER,
    "accuracy": kinds.table(kinds.table(_NUMBER)),
  },
  others=False,
)
_PROGRESS = kinds.record(
  {
    "history": kinds.entries(kinds.table(_NUMBER)),
    "best": kinds.record(
      {"test": _BEST, "validation": _BEST},
      missing=("test", "validation"),
      others=False,
    ),
    "seconds": kinds.entries(_NUMBER),
    "finetuning": kinds.boolean,
    "figures": kinds.entries(figure_records.RECORD),
  },
  missing=("figures",),
  others=False,
)


def _understood(content: dict[str, Any]) -> dict[str, Any]:
  """What a checkpoint says of itself, under present names.

  Raises:
    ValueError: progress that a run cannot go on from.
  """
  content = former_names.renamed_checkpoint(content)
  progress = _PROGRESS("progress", content["progress"])
  for i, record in enumerate(progress["history"]):
    place = f"progress.history[{i}].round"
    kinds.whole(1, content["round"])(place, record.get("round"))
  if progress["history"] and "test" not in progress["best"]:
    raise ValueError("progress.best.test: must be given beside a history")
  return content


class Saver:
  """Saves checkpoints when they are due, and restores the latest.

  Args:
    made: the run.
    given: its settings, as they were given.
    identity: what its results follow from.
    workdir: where checkpoints go; None saves nothing.
    anew: whether the run was asked to begin anew.
  """

  def __init__(
    self,
    made: Assembly,
    given: Settings,
    identity: identity_lib.Identity,
    workdir: str | os.PathLike | None,
    anew: bool,
  ):
    self.workdir = "" if workdir is None else os.fspath(workdir)
    self._identity = identity
    self._simulation, self._settings = made.simulation, given
    self._how = "without --restart, " if anew else ""
    # Several processes save together, but their clocks differ, and a signal
    # reaches one of them only.
    self.saves = bool(self.workdir) and jax.process_count() == 1
    self._minutes = given.checkpoint_minutes if self.saves else 0.0
    self._saved, self._since = -1, time.monotonic()
    self._checkpoints: checkpoint.Checkpoints | None = None
    if self.workdir:
      self._checkpoints = checkpoint.Checkpoints(
        self.workdir,
        identity,
        given.keep_checkpoints,
        _understood,
      )

  def clear(self) -> None:
    """Deletes the checkpoints of an earlier run."""
    if self._checkpoints is not None and processes.is_first():
      self._checkpoints.clear()

  def keeps_results(self) -> bool:
    """Whether the workdir has finished results, which are of this very run.

    Of several processes, the first looks, and all are told.

    Raises:
      ValueError: they are of another run.
    """
    differ = None
    if self.workdir and processes.is_first():
      differ = identity_lib.of_another_run(self.workdir, self._identity)
    if jax.process_count() > 1:
      told = multihost_utils.process_allgather(np.int32(bool(differ)))
      if np.any(told) and not differ:
        differ = ["the first process says which"]
    if differ:
      raise refusal(self.workdir, "results", differ)
    return differ is not None

  def latest(self) -> tuple[SimulationState, Progress] | None:
    """State and progress of the latest checkpoint; None if there is none."""
    if self._checkpoints is None:
      return None
    saved = self._checkpoints.latest(
      lambda progress: self._simulation.shapes(progress["finetuning"]),
      self._simulation.kept,
    )
    if jax.process_count() > 1:
      round_ = np.int32(-1 if saved is None else saved.round)
      if len(set(multihost_utils.process_allgather(round_).tolist())) > 1:
        raise ValueError(
          f"workdir={self.workdir!r}: must be one folder that all processes "
          "see, since there are checkpoints in it; or begin anew"
        )
    if saved is None:
      return None
    self._saved = saved.round
    return self._simulation.restore(saved.state), Progress(**saved.progress)

  def save(self, state: SimulationState, progress: Progress) -> None:
    """Saves a checkpoint; warns if that fails."""
    round_ = int(state.round)
    if self._checkpoints is None or round_ == self._saved:
      return
    exported = self._simulation.export(state)
    self._since = time.monotonic()
    value = progress.value(round_, self._simulation.primary_variant)
    whole = None
    if jax.process_count() > 1:
      whole = self._simulation.shapes(progress.finetuning)
    try:
      self._checkpoints.save(
        round_, exported, dataclasses.asdict(progress), value, whole
      )
      self._saved = round_
    except OSError as error:
      if not processes.is_first():
        return  # The first has the same error, and warns.
      warnings.warn(
        f"round {round_}: no checkpoint could be saved in {self.workdir} "
        f"({error}); the last one is as it was",
        stacklevel=3,
      )

  @property
  def has_saved(self) -> bool:
    """Whether there is a checkpoint to go on from."""
    return self._saved >= 0

  def note(self) -> str:
    """From where the run can go on, in words."""
    if not self.has_saved:
      where = f" in {self.workdir}" if self.workdir else ""
      return f"no checkpoint is saved{where}"
    return (
      f"round {self._saved} is saved in {self.workdir}, and the same command "
      f"{self._how}goes on from there"
    )

  def is_due(self, round_: int, *, last: bool = False) -> bool:
    """Whether a checkpoint is due; after the last round, if there are any."""
    every, minutes = self._settings.checkpoint_every, self._minutes
    return bool(
      (every and round_ % every == 0)
      or (minutes and time.monotonic() - self._since >= 60 * minutes)
      or (last and self._saved >= 0)
    )
