"""From settings to results: a whole run, its files and its summary."""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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
  quantized_tensors,
  scores,
)
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import metrics as metrics_lib
from quped_jax.experiment import summary as summary_lib
from quped_jax.experiment.assemble import Assembly, assemble, client_store
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.figures import run_figures
from quped_jax.experiment.job import Job, check_processes
from quped_jax.experiment.loop import Alone, End
from quped_jax.experiment.resume import Interrupted, Progress, Signals
from quped_jax.experiment.settings import Settings
from quped_jax.files import checkpoint
from quped_jax.simulation import processes
from quped_jax.simulation.simulation import Simulation
from quped_jax.simulation.state import SimulationState


class Result(NamedTuple):
  """The result of a run.

  Attributes:
    summary: what `summary.json` holds.
    clients: a row per client, what `clients.csv` holds.
    history: a record per evaluated round, what `metrics.jsonl` holds.
    figure_records: what figures need beside these, what `figures.jsonl` holds.
    state: the SimulationState after the last round.
    simulation: the programs that computed it.
  """

  summary: dict[str, Any]
  clients: list[dict[str, Any]]
  history: list[dict[str, Any]]
  figure_records: list[dict[str, Any]]
  state: SimulationState
  simulation: Simulation

  def __repr__(self) -> str:
    fields = ", ".join(self._fields)
    return f"Result({summary_lib.in_a_line(self.summary)}; fields: {fields})"


def run(
  settings: Settings,
  workdir: str | os.PathLike | None = None,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  state: SimulationState | None = None,
  display: metrics_lib.Display | None = None,
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
    state: the state to go on from, instead of fresh weights, after fewer than
      `settings.rounds` rounds; its buffers are donated. A run from it is not
      the same as one from another state, and its checkpoints are its own.
    display: shows progress; by default a live display on a terminal and log
      lines elsewhere. `Display(quiet=True)` shows nothing.
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
  """
  make = functools.partial(
    assemble, settings, federation=federation, model=model, workdir=workdir
  )
  try:
    return run_made(
      Request(
        settings,
        workdir,
        make,
        state=state,
        display=display,
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
    identity: of the run, if it is known; computed where it is needed if not.
    state: see `run`.
    display: likewise.
    resume: likewise.
    model_given: whether its network was given as an object.
  """

  settings: Settings
  workdir: str | os.PathLike | None
  make: Callable[[], Assembly]
  identity: identity_lib.Identity | None = None
  state: SimulationState | None = None
  display: metrics_lib.Display | None = None
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
    say_what_is_quantized(job)
    try:
      job, end, state = _go_through(job, request.state, resume=request.resume)
      return finish(job, end, state, began)
    except (OSError, KeyboardInterrupt) as error:
      if not isinstance(error, Interrupted):
        error.add_note(job.saver.note())
      raise


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
    made, settings, own, workdir, request.display, anew=not request.resume
  )


def say_what_is_quantized(job: Job) -> None:
  """Shows which tensors a run quantizes."""
  for note in quantized_tensors.notes(job.made):
    job.display.note(note)


class Begin(NamedTuple):
  """Where a run begins, or goes on from."""

  state: SimulationState
  progress: Progress


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
    job.display.note(
      f"goes on after round {int(state.round)}, from a checkpoint"
    )
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
  if settings.budget_bytes:
    job.display.note(summary_lib.budget_note(job.made))
  return Begin(state, progress)


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
    try:
      return job, *_train(job, *begin)
    except jax.errors.JaxRuntimeError as error:
      given = None if job.saver.has_saved else state
      halve = no_room.halve(error, job.made, given)
    # Not in the `except`, whose error refers to all arrays.
    del begin
    _, given, own, workdir, *_, display = job
    job = Job.of(halve(), given, own, workdir, display, anew=anew)
    resume = True
    display.note(no_room.note(job.made))


def _train(
  job: Job, state: SimulationState, progress: Progress
) -> tuple[End, SimulationState]:
  """Runs the rounds that are left, with evaluations and checkpoints between."""
  settings = job.made.settings
  at_once = dispatch.rounds_at_once(job.made)
  with (
    job.display.show(
      settings.method, settings.rounds, scores.of_run(settings)
    ) as show,
    Signals(job.saver.saves) as signals,
  ):
    jax.block_until_ready(state)
    alone = Alone(job.made.simulation, state)
    asking = loop.rounds(job, alone, progress, signals, show, at_once)
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
    job.display.note(divergence_reports.note(end.diverged))
  if made.settings.save_models != "none":
    assert job.workdir is not None  # As checked.
    deploy.save_models(made, state, job.workdir)
  summary = summary_lib.summarize(
    made, state, end.progress, end.scores["test"], end.diverged
  )
  summary["timing"]["total_seconds"] = (time.perf_counter() - began) / runs
  rows = summary_lib.client_rows(made, end.scores["test"])
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
    run_figures.leave(result, job.workdir, job.display.note)
  return result
