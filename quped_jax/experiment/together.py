"""Runs of the same programs, all at once: what one asks for, all ask for.

The rounds of each, see `loop`, are those of a run by itself, with files and
checkpoints of its own. All begin after the same round and have the same rounds
to stop at, so that they ask for the same at the same time; that is done once,
for all of them, by a `RunAxis`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax.experiment import loop, scores
from quped_jax.experiment.clock import Clock
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.job import Job
from quped_jax.experiment.metrics import Display
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
  """A run that went through all its rounds.

  Attributes:
    job: the run.
    end: what its rounds lead to.
    state: `() -> state` after them, copied from that of all runs.
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


class _Shown:
  """What the runs report, as one: means over those that go on."""

  def __init__(self, show: Callable[..., None]):
    self._show = show
    self._told: list[tuple[int, Any, Any]] = []

  def told(self, round_: int, record: Any = None, seconds: Any = None) -> None:
    """What one run reports, see `Display.show`."""
    self._told.append((round_, record, seconds))

  def show(self) -> None:
    """Shows what was reported since."""
    if not self._told:
      return
    rounds, records, seconds = zip(*self._told, strict=True)
    self._told = []
    if records[0] is None:
      return self._show(rounds[0])
    means = {
      name: float(np.mean([record[name] for record in records]))
      for name in records[0]
    }
    # Each tells its share.
    return self._show(rounds[0], means, sum(seconds))


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


def go(
  members: Sequence[Member],
  state: SimulationState,
  axis: RunAxis,
  display: Display,
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
    The index of each run, and how its rounds ended: of one that diverges at
    once, of the others at the end.

  Raises:
    Interrupted: a signal came; each run has saved a checkpoint if it has a
      workdir.
  """
  settings = members[0].job.made.settings
  stack = _Stack(axis, members, state)
  places = [_Place(stack, run) for run in range(len(members))]
  ended: dict[int, loop.End] = {}
  with (
    display.show(
      settings.method, settings.rounds, scores.of_run(settings)
    ) as show,
    Signals(all(x.job.saver.saves for x in members)) as signals,
  ):
    turn, shown = _Turn(signals), _Shown(show)
    going = {
      run: loop.rounds(
        x.job, places[run], x.progress, turn, shown.told, at_once
      )
      for run, x in enumerate(members)
    }
    given: list[Any] = [None] * len(members)
    while going:
      turn.begin()
      asks, stopped = set(), []
      for run, asking in list(going.items()):
        try:
          asks.add(asking.send(given[run]))
          continue
        except StopIteration as end:
          ended[run] = end.value
        except DivergenceError as error:
          yield run, error
        except Interrupted as error:
          stopped.append((members[run].job, error))
        del going[run]
      shown.show()
      if stopped:
        raise _together(stopped)
      if going:
        (ask,) = asks
        given = stack.do(ask)
  for run, end in ended.items():
    yield run, Ended(members[run].job, end, places[run].state)


def _together(stopped: Sequence[tuple[Job, Interrupted]]) -> Interrupted:
  """One error for all runs that ended for a signal."""
  (_, first), *others = stopped
  note = stopped[0][0].saver.note()
  if others:
    note += f"; so are the {len(others)} runs beside it"
  return Interrupted(first.signal, note)
