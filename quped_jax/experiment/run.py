"""From settings to results: a whole run, its files and its summary."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from quped_jax import models as models_lib
from quped_jax import paths
from quped_jax.data.federation import Federation
from quped_jax.experiment import (
  deploy,
  dispatch,
  divergence_reports,
  given_state,
  loop,
  no_room,
  own_functions,
  quantized_tensors,
  scores,
)
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import summary as summary_lib
from quped_jax.experiment.assemble import Assembly, assemble, client_store
from quped_jax.experiment.callbacks.base import Callback, RunStart
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.figures import run_figures
from quped_jax.experiment.job import Job, check_processes
from quped_jax.experiment.loop import Alone, End
from quped_jax.experiment.result import Result
from quped_jax.experiment.resume import Interrupted, Progress, Signals
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.telling import Telling, telling_of
from quped_jax.files import checkpoint
from quped_jax.simulation import processes
from quped_jax.simulation.state import SimulationState


def run(
  settings: Settings,
  workdir: str | os.PathLike | None = None,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  loss: str | own_functions.Loss | None = None,
  metrics: own_functions.Metrics = (),
  state: SimulationState | None = None,
  callbacks: Sequence[Callback] = (),
  display: Display | None = None,
  resume: bool = True,
) -> Result:
  """Runs an experiment from its first round to its last.

  A run with a workdir saves checkpoints there. If it is interrupted, the same
  call goes on from the latest, and its results are bit for bit those of an
  uninterrupted run, on CPU with the same versions and devices. SIGTERM, SIGHUP
  and Ctrl-C end a run after the rounds that are under way, with a checkpoint.

  Args:
    settings: all settings.
    workdir: where results are written, by the first process if there are
      several; None for nowhere.
    federation: used instead of the one that the settings describe, if given.
    model: likewise.
    loss: what training minimises on labels, instead of what the settings say:
      the name of a loss, or a function `(outputs [batch, width], targets
      [batch, ...]) -> scalar`, the mean over the batch, such as those of optax.
      Of an array `[batch, ...]` the mean is taken. Targets are as the data has
      them: int32 classes `[batch]`; float32 values `[batch, width]`; or bools
      `[batch, labels]`. What the function computes is part of what results
      follow from.
    metrics: what is measured of every variant of the models, beside the score
      and the `metrics` of the settings: names of these, and functions
      `(outputs, targets) -> [batch]`, of which the mean over samples is taken,
      by each one's own name; or {name: function}.
    state: the state to go on from, instead of fresh weights, after fewer than
      `settings.rounds` rounds; its buffers are donated. A run from it is not
      the same as one from another state, and its checkpoints are its own.
    callbacks: what else is done while the run goes on, see
      `quped_jax.Callback`; with several processes, in the first alone.
    display: shows progress; by default a live display on a terminal and in a
      notebook, and lines elsewhere. `Display(quiet=True)` shows nothing. It may
      be among the callbacks instead.
    resume: whether to go on from checkpoints in the workdir. If not, these are
      deleted, and finished results of any run in the workdir are replaced.

  Returns:
    The result, which is also in the workdir.

  Raises:
    ValueError: settings that are not allowed, before anything is compiled; a
      workdir with results or checkpoints of another run, or that another run
      uses; processes with different settings.
    Interrupted: a signal came; a checkpoint is saved if there is a workdir.
    KeyboardInterrupt: Ctrl-C before the first round, or for the second time.
    DivergenceError: a client diverged and `on_divergence` is "raise"; or all
      participants diverged, in three rounds in a row or in all rounds.
    OSError: results cannot be written; a note says what is saved.
    ConnectionError: another process has ended; likewise.
    Exception: what a callback raises; notes say which one, and what is saved.

  Examples:
    >>> settings = qj.Settings(
    ...   method="local", clients=4, bits=(32,), rounds=1, steps=2
    ... )
    >>> result = qj.run(settings, "results/run", display=qj.Display(quiet=True))
    >>> result.summary["primary_variant"]
    'quantized'
  """
  telling = telling_of(callbacks, display)
  settings, own = own_functions.read(settings, loss, metrics)
  make = functools.partial(
    assemble,
    settings,
    federation=federation,
    model=model,
    own=own,
    workdir=workdir,
  )
  try:
    return run_made(
      Request(
        settings,
        workdir,
        make,
        telling,
        state=state,
        resume=resume,
        model_given=model is not None,
      )
    )
  except KeyboardInterrupt as error:
    raise brief(error) from None


def brief(error: KeyboardInterrupt) -> KeyboardInterrupt:
  """The error without where in JAX it was, which takes hundreds of lines."""
  if not isinstance(error, Interrupted):
    notes = getattr(error, "__notes__", ["nothing new is saved"])
    error = KeyboardInterrupt(f"stopped by SIGINT: {'; '.join(notes)}")
  return error.with_traceback(None)


class Request(NamedTuple):
  """A run that is asked for.

  Attributes:
    settings: of the run.
    workdir: see `run`.
    make: makes the run, as `assemble` does, once the workdir is locked.
    telling: tells callbacks what happens to it.
    identity: of the run, if it is known; computed where it is needed if not.
    state: see `run`.
    resume: likewise.
    model_given: whether its network was given as an object.
  """

  settings: Settings
  workdir: str | os.PathLike | None
  make: Callable[[], Assembly]
  telling: Telling
  identity: identity_lib.Identity | None = None
  state: SimulationState | None = None
  resume: bool = True
  model_given: bool = False


def run_made(request: Request) -> Result:
  """Runs what is asked for; see `run`."""
  began = time.perf_counter()
  with (
    processes.together((Interrupted, DivergenceError)) as set_note,
    contextlib.ExitStack() as held,
  ):
    job = opened(held, request)
    set_note(job.saver.note)
    try:
      job, end, state = _go_through(job, request.state, resume=request.resume)
      result = finish(job, end, state, began)
    except BaseException as error:
      request.telling.failed(error)
      raise
    request.telling.done(result.summary)
    return result


def opened(held: contextlib.ExitStack, request: Request) -> Job:
  """Locks the workdir of a run, makes the run, and checks all of it.

  Args:
    held: lets go of the workdir when it is closed.
    request: the run that is asked for.

  Raises:
    ValueError: see `run`.
  """
  settings, workdir, state = request.settings, request.workdir, request.state
  own: identity_lib.Identity = {}
  with processes.agreeing():
    if workdir is not None:
      workdir = paths.given("workdir", workdir)
      if processes.is_first():
        held.enter_context(checkpoint.lock(workdir))
    made = request.make()
    deploy.check(made, workdir, model_given=request.model_given)
    given_state.check_state(made, state)
    if workdir is not None or jax.process_count() > 1:
      own = request.identity or identity_lib.of(made, settings, state)
  # However the run ends: all that is needed to resume is in a checkpoint.
  held.callback(client_store(settings, workdir).remove)
  check_processes(
    settings, own, state, resume=request.resume, written=workdir is not None
  )
  return Job.of(
    made, settings, own, workdir, request.telling, anew=not request.resume
  )


class Start(NamedTuple):
  """What callbacks are told when a run begins, see `Telling.begin`."""

  start: RunStart
  notes: list[str]
  goes_on: str


class Begin(NamedTuple):
  """Where a run begins, or goes on from, and what callbacks are told of it."""

  state: SimulationState
  progress: Progress
  start: Start


def restore(job: Job, state: SimulationState | None, *, resume: bool) -> Begin:
  """Where a run begins, or goes on from its latest checkpoint.

  Args:
    job: the run.
    state: that it is given to begin with; None for a fresh one.
    resume: whether it goes on from checkpoints.
  """
  settings = job.made.settings
  saved = job.saver.latest() if resume else None
  keeps = resume and job.saver.keeps_results()
  if saved:
    state, progress = saved
    job.writer.go_on(job.given.to_dict(), job.identity, progress.history)
  else:
    progress = Progress()
    if state is None:
      state = job.made.simulation.init(settings.seed)
    elif settings.finetune_at:
      progress.finetuning = int(state.round) > settings.finetune_at
    # All is checked: now what an earlier run left in the workdir is removed.
    job.saver.clear()
    job.writer.start(job.given.to_dict(), job.identity, keep=keeps)
    if job.workdir is not None and processes.is_first() and not keeps:
      deploy.clear(job.workdir)
      run_figures.clear(job.workdir)
  start = _start(job, int(state.round), progress, saved=saved is not None)
  if keeps and not saved:
    start.notes.append(
      f"{job.workdir} has the results of this very run: it trains again, and "
      "replaces them when it is done"
    )
  return Begin(state, progress, start)


def _start(job: Job, round_: int, progress: Progress, *, saved: bool) -> Start:
  """What a run is, after so many rounds, which may be those of a checkpoint."""
  made, layout = job.made, job.made.simulation.layout
  notes = quantized_tensors.notes(made)
  if made.settings.budget_bytes:
    notes.append(summary_lib.budget_note(made))
  start = RunStart(
    settings=job.given,
    workdir=None if job.workdir is None else pathlib.Path(job.workdir),
    round=round_,
    history=tuple(map(dict, progress.history)),
    dataset=made.federation.name,
    model=summary_lib.model_name(made),
    primary_variant=made.simulation.primary_variant,
    score=scores.of_run(made.settings).name,
    devices=layout.devices,
    clients_at_once=min(layout.at_once, made.settings.clients),
  )
  goes_on = f"goes on after round {round_}, from a checkpoint" if saved else ""
  return Start(start, notes, goes_on)


def _go_through(
  job: Job, state: SimulationState | None, *, resume: bool
) -> tuple[Job, End, SimulationState]:
  """All rounds; with fewer clients at once where memory has no room.

  Programs that failed may have taken over the state's buffers. So the run goes
  on from where it began, or from its checkpoint.
  Returns the job that went through, what its rounds lead to, and its state.
  """
  anew = not resume
  while True:
    begin = restore(job, state, resume=resume)
    job.telling.begin(*begin.start)
    try:
      return job, *_train(job, begin.state, begin.progress)
    except jax.errors.JaxRuntimeError as error:
      given = None if job.saver.has_saved else state
      halve = no_room.halve(error, job.made, given)
    # Not in the `except`, whose error refers to all arrays.
    del begin
    _, given, own, workdir, *_, telling = job
    job = Job.of(halve(), given, own, workdir, telling, anew=anew)
    resume = True
    telling.note(no_room.note(job.made))


def _train(
  job: Job, state: SimulationState, progress: Progress
) -> tuple[End, SimulationState]:
  """Runs the rounds that are left, with evaluations and checkpoints between."""
  at_once = dispatch.rounds_at_once(job.made)
  with Signals(job.saver.saves) as signals:
    jax.block_until_ready(state)
    alone = Alone(job.made.simulation, state)
    asking = loop.rounds(job, alone, progress, signals, at_once)
    return alone.follow(asking), alone.state()


def finish(
  job: Job, end: End, state: SimulationState, began: float, runs: int = 1
) -> Result:
  """Writes the models, the summary and the tables of a run that is done.

  Args:
    job: the run.
    end: what its rounds led to.
    state: after them.
    began: when it began, by `time.perf_counter`.
    runs: that went at the same time, who share it.
  """
  made = job.made
  if end.diverged:
    job.telling.note(divergence_reports.note(end.diverged))
  if made.settings.save_models != "none":
    assert job.workdir is not None  # As checked.
    deploy.save_models(made, state, job.workdir)
  summary = summary_lib.summarize(
    made,
    state,
    end.progress,
    end.scores["test"],
    end.diverged,
    end.measures.get("test", {}),
  )
  if end.stopped is not None:
    summary |= summary_lib.stopped(end.progress, made.settings, end.stopped)
  summary["timing"]["total_seconds"] = (time.perf_counter() - began) / runs
  rows = summary_lib.client_rows(
    made, end.scores["test"], end.measures.get("test", {})
  )
  job.writer.clients(rows)
  job.writer.figures(end.progress.figures)
  job.writer.summary(summary)
  result = Result(
    summary,
    rows,
    end.progress.history,
    end.progress.figures,
    state,
    made.simulation,
  )
  if job.given.figures and job.workdir is not None and processes.is_first():
    run_figures.leave(result, job.workdir, job.telling.note, made.federation)
  return result
