"""Runs of the same programs, all at once: what one asks for, all ask for.

The rounds of each, see `loop`, are those of a run by itself, with files and
checkpoints of its own. All begin after the same round and have the same rounds
to stop at, so that they ask for the same at the same time; that is done once,
for all of them, by a `RunAxis`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from quped_jax.experiment import loop
from quped_jax.experiment.callbacks.as_one import AsOne
from quped_jax.experiment.clock import Clock
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.job import Job
from quped_jax.experiment.resume import Interrupted, Progress, Signals
from quped_jax.experiment.settings import Settings
from quped_jax.simulation.run_axis import RunAxis
from quped_jax.simulation.state import SimulationState


class Member(NamedTuple):
  """One of the runs.

  Attributes:
    job: the run.
    progress: how far it has come.
  """

  job: Job
  progress: Progress


class Ended(NamedTuple):
  """A run that went through all its rounds, or was stopped.

  Attributes:
    job: the run.
    end: what its rounds lead to.
    state: `() -> state` after them, copied from that of all runs; to be called
      before the others go on.
  """

  job: Job
  end: loop.End
  state: Callable[[], SimulationState]


def stops_of(settings: Settings) -> Hashable:
  """Equal for runs that stop after the same rounds, wherever they begin."""
  names = (
    "rounds", "eval_every", "checkpoint_every", "finetune_at",
    "rounds_per_dispatch",
  )  # fmt: skip
  return tuple(getattr(settings, name) for name in names)


def begins_as(state: SimulationState, progress: Progress) -> Hashable:
  """Equal for runs with the same stops that can go on together."""
  return int(state.round), progress.finetuning


class _Turn:
  """The same for all runs: whether they end before the rounds that follow."""

  def __init__(self, signals: Signals):
    self._signals, self._seen = signals, 0

  def begin(self) -> None:
    self._seen = self._signals.seen()

  def seen(self) -> int:
    return self._seen


class _Stack:
  """The state of all runs, and what is done to it."""

  def __init__(
    self, axis: RunAxis, members: Sequence[Member], state: SimulationState
  ):
    self.axis, self._runs, self._state = axis, len(members), state
    self._data = axis.stack_data([x.job.made.simulation.data for x in members])
    self._metrics: dict[str, Any] = {}
    self._clock = Clock(axis.compile_seconds)
    jax.block_until_ready(self._state)
    self._look()

  def _look(self) -> None:
    """Copies what is looked at of all runs, once for all."""
    small = self._state._replace(server=None, clients=None, key=None)
    self._records = jax.device_get(small)

  def state(self, run: int) -> SimulationState:
    """A copy of one run's state."""
    return self.axis.take(self._state, run)

  def records(self, run: int) -> SimulationState:
    """One run's, see `Held`, when all were last evaluated."""
    return jax.tree.map(lambda x: x[run], self._records)

  def do(self, ask: loop.Ask) -> list[loop.Evaluated | None]:
    """Does what all runs ask for."""
    if isinstance(ask, loop.Advance):
      with self._clock.running(ask.rounds):
        if ask.finetune:
          self._state = self.axis.begin_finetune(self._state, self._data)
        self._state, self._metrics = self.axis.run_rounds(
          self._state, ask.rounds, self._data
        )
      return [None] * self._runs
    with self._clock.running():
      jax.block_until_ready(self._state)
    self._look()
    metrics = jax.device_get(self._metrics)
    tables = self.axis.measure(self._state, self._data)[: self._runs]
    seconds = self._clock.seconds_per_round() / self._runs
    return [
      loop.Evaluated(
        jax.tree.map(lambda x, run=run: x[run], metrics),
        scores_of_run,
        seconds,
        measures,
      )
      for run, (scores_of_run, measures) in enumerate(tables)
    ]


class _Place:
  """Where one run's state is, see `Held`."""

  def __init__(self, stack: _Stack, run: int):
    self._stack, self._run = stack, run

  def state(self) -> SimulationState:
    return self._stack.state(self._run)

  def records(self) -> SimulationState:
    return self._stack.records(self._run)


class _Runs:
  """The runs that go at once: how far each is, and how it ended.

  Args:
    members: the runs.
    stack: their state.
    turn: whether a signal ends them.
    at_once: the most rounds in one dispatch.

  Attributes:
    going: those that go on, by their indices.
    errors: of those that end all.
  """

  def __init__(
    self, members: Sequence[Member], stack: _Stack, turn: _Turn, at_once: int
  ):
    self._members = members
    self._places = [_Place(stack, run) for run in range(len(members))]
    self.going = {
      run: loop.rounds(x.job, self._places[run], x.progress, turn, at_once)
      for run, x in enumerate(members)
    }
    self.errors: dict[int, Exception | Interrupted] = {}
    # Of those that ended since it was last told.
    self._ended: dict[int, loop.End | DivergenceError] = {}

  def ask(self, given: Sequence[Any]) -> loop.Ask | None:
    """What all ask for next; None if none goes on.

    Args:
      given: to each, what came of what it asked for.
    """
    asks = set()
    for run, asking in list(self.going.items()):
      try:
        asks.add(asking.send(given[run]))
        continue
      except StopIteration as end:
        self._ended[run] = end.value
      except DivergenceError as error:
        self._ended[run] = error
      except Interrupted as error:
        self.errors[run] = error
      except Exception as error:  # Of a callback alone; others are not meant.
        if error is not self._members[run].job.telling.error:
          raise
        self.errors[run] = error
      del self.going[run]
    (ask,) = asks or {None}
    return ask

  def told(self) -> Iterator[tuple[int, Ended | DivergenceError]]:
    """How runs ended since it was last told."""
    for run in list(self._ended):
      end = self._ended.pop(run)
      if not isinstance(end, DivergenceError):
        end = Ended(self._members[run].job, end, self._places[run].state)
      yield run, end

  def save(self) -> None:
    """Saves checkpoints of those that go on."""
    for run in self.going:
      job, progress = self._members[run]
      job.saver.save(self._places[run].state(), progress)

  def error(self) -> Exception | Interrupted:
    """The error that ends all, when they are saved."""
    run, error = next(iter(self.errors.items()))
    others = len(self.errors) - 1 + len(self.going)
    beside = f"so are the {others} runs beside it" if others else ""
    if isinstance(error, Interrupted):
      notes = self._members[run].job.saver.note(), beside
      return Interrupted(error.signal, "; ".join(filter(None, notes)))
    if beside:
      error.add_note(beside)
    return error


def go(
  members: Sequence[Member],
  state: SimulationState,
  axis: RunAxis,
  display: AsOne,
  at_once: int,
) -> Iterator[tuple[int, Ended | DivergenceError]]:
  """Runs all rounds of several runs.

  Args:
    members: the runs, not more than the axis has; all with the same `stops_of`
      and `begins_as`.
    state: their states, stacked, of which the buffers are taken over.
    axis: runs them.
    display: shows the progress of all.
    at_once: the most rounds in one dispatch.

  Yields:
    The index of each run, and how its rounds ended: of one that diverges or is
    stopped at once, of the others at the end.

  Raises:
    Interrupted: a signal came; each run has saved a checkpoint if it has a
      workdir.
    Exception: what a callback of one of them raised; likewise.
  """
  stack = _Stack(axis, members, state)
  with Signals(all(x.job.saver.saves for x in members)) as signals:
    turn = _Turn(signals)
    runs = _Runs(members, stack, turn, at_once)
    given: Sequence[Any] = [None] * len(members)
    while runs.going:
      turn.begin()
      ask = runs.ask(given)
      display.show()
      if runs.errors:
        runs.save()
        yield from runs.told()
        raise runs.error()
      if ask is not None:
        yield from runs.told()
        given = stack.do(ask)
  yield from runs.told()
