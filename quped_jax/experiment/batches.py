"""Runs of the same programs at once, as many as memory has room for.

Runs go together if they stop after the same rounds and begin after the same
one; all others follow in further batches. A run that is left with nobody goes
by itself.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from quped_jax.experiment import dispatch, no_room, together
from quped_jax.experiment import run as run_lib
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.callbacks.as_one import AsOne
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.job import Job
from quped_jax.experiment.result import Result
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.telling import Telling
from quped_jax.simulation import run_axis, sizes
from quped_jax.simulation.run_axis import RunAxis


class Waiting(NamedTuple):
  """A run that is to do.

  Attributes:
    settings: all settings.
    open: `(held, of_batch, resume) -> Job`, see `run.opened`; the job is that
      of `of_batch(made)`.
    alone: `resume -> Result`, runs it by itself.
    telling: tells its callbacks.
    resume: whether it goes on from checkpoints.
  """

  settings: Settings
  open: Callable[
    [contextlib.ExitStack, Callable[[Assembly], Assembly], bool], Job
  ]
  alone: Callable[[bool], Result]
  telling: Telling
  resume: bool = True


# What became of runs, by their indices.
Outcomes = Iterator[tuple[int, Result | DivergenceError]]


def run_all(
  waiting: Sequence[Waiting],
  make_axis: Callable[[int], RunAxis],
  memory: run_axis.Memory,
  display: Display | None = None,
) -> Outcomes:
  """Runs as many at once as memory has room for, then the next.

  Each has the files and checkpoints that it has by itself. If memory is full
  all the same, half as many go at once, from where they began or from their
  checkpoints.

  Args:
    waiting: what is to do.
    make_axis: makes programs for so many runs at once.
    memory: what a round takes.
    display: shows the progress of all.

  Yields:
    The index of each, and its result, or the error with which it diverged.

  Raises:
    Interrupted: a signal came; each run of the batch is saved if it has a
      workdir.
    Exception: what `run` raises otherwise. Those that were not yielded may be
      run again, and go on from their checkpoints.
  """
  todo = dict(enumerate(waiting))
  alike = collections.Counter(together.stops_of(x.settings) for x in waiting)
  size = memory.runs_at_once(
    max(alike.values(), default=1),
    sizes.memory_limit() or sizes.host_memory(),
  )
  axis = None
  while todo:
    batch = _first(todo, size)
    try:
      if len(batch) > 1:
        axis = axis or make_axis(size)
        results = _Batch(axis, memory, todo, display or Display()).run(batch)
      else:
        results = _alone(todo, batch[0], display)
      for i, result in results:
        del todo[i]
        yield i, result
      continue
    except jax.errors.JaxRuntimeError as error:
      if len(batch) == 1 or not no_room.is_meant(error):
        raise
    # Not in the `except`, whose error refers to all arrays.
    (display or Display()).note(f"memory had no room for {size} runs at once")
    axis, results, size = None, None, -(-size // 2)


def _first(todo: Mapping[int, Waiting], most: int) -> list[int]:
  """The next run, and those that stop after the same rounds."""
  stops = {i: together.stops_of(run.settings) for i, run in todo.items()}
  first = next(iter(stops.values()))
  return [i for i, own in stops.items() if own == first][:most]


def _alone(
  todo: Mapping[int, Waiting], i: int, display: Display | None
) -> Outcomes:
  todo[i].telling.display = display or Display()
  try:
    yield i, todo[i].alone(todo[i].resume)
  except DivergenceError as error:
    yield i, error


def _tell_end(
  telling: Telling, result: Result | DivergenceError
) -> Exception | None:
  """Tells how a run ended; an error of a callback has others end before."""
  if isinstance(result, DivergenceError):
    telling.failed(result)
    return None
  try:
    telling.done(result.summary)
  except Exception as error:  # Whatever a callback raises.
    return error
  return None


class _Batch:
  """Runs that go at once.

  Args:
    axis: their programs.
    memory: what a round takes.
    todo: all runs that are to do. One that has begun goes on from there.
    display: shows the progress of all.
  """

  def __init__(
    self,
    axis: RunAxis,
    memory: run_axis.Memory,
    todo: dict[int, Waiting],
    display: Display,
  ):
    self._axis, self._memory, self._todo = axis, memory, todo
    self._display = display
    self._places: list[int] = []
    self._members: list[together.Member] = []
    self._starts: list[run_lib.Start] = []
    self._compiled = axis.compile_seconds()

  def run(self, batch: Sequence[int]) -> Outcomes:
    """Runs those of a batch that begin after the same round."""
    began = time.perf_counter()
    with contextlib.ExitStack() as held:
      state = self._axis.stack(self._opened(held, batch))
      if len(self._members) > 1:
        yield from self._go(state, began)
    if len(self._members) == 1:
      del state
      yield from _alone(self._todo, batch[0], self._display)

  def _opened(self, held, batch: Sequence[int]):
    """Opens runs, and yields where they begin."""
    first = None
    for i in batch:
      run = self._todo[i]
      job = run.open(held, self._made, run.resume)
      state, progress, start = run_lib.restore(job, None, resume=run.resume)
      self._todo[i] = run._replace(resume=True)
      begins = together.begins_as(state, progress)
      first = begins if first is None else first
      if begins == first:
        self._places.append(i)
        self._members.append(together.Member(job, progress))
        self._starts.append(start)
        yield state

  def _go(self, state, began: float) -> Outcomes:
    """Runs all, and tells the callbacks of each how it ended."""
    shown = AsOne(self._display, len(self._members))
    going = {i: self._todo[i].telling for i in self._places}
    for telling, start in zip(going.values(), self._starts, strict=True):
      telling.display = shown
      telling.begin(*start)
    late = None
    try:
      for i, result in self._results(state, shown, began):
        late = _tell_end(going.pop(i), result) or late
        yield i, result
    except BaseException as error:
      # If memory had no room, they go on in smaller batches.
      if not no_room.is_meant(error):
        for telling in going.values():
          telling.failed(error)
      raise
    finally:
      shown.close()
    if late is not None:
      raise late

  def _results(self, state, shown: AsOne, began: float) -> Outcomes:
    """Runs all, and writes the results of each."""
    job, runs = self._members[0].job, len(self._members)
    at_once = dispatch.rounds_at_once(job.made)
    if not job.made.settings.rounds_per_dispatch:
      at_once = max(at_once // runs, 1)
    for n, end in together.go(self._members, state, self._axis, shown, at_once):
      if not isinstance(end, DivergenceError):
        end = run_lib.finish(end.job, end.end, end.state(), began, runs)
      yield self._places[n], end

  def _made(self, made: Assembly) -> Assembly:
    """A run with what it costs as one of several."""
    simulation = made.simulation._replace(
      compile_seconds=self._compile_seconds,
      program=self._axis.main,
      memory=self._memory.total(self._axis.runs),
    )
    return made._replace(simulation=simulation)

  def _compile_seconds(self) -> float:
    """A run's share."""
    spent = self._axis.compile_seconds() - self._compiled
    return spent / max(len(self._members), 1)
