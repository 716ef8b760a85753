"""The rounds of a run, which says what is to be done and leaves how to others.

`rounds` asks for rounds and evaluations, and is given what comes of them: by
the run's own simulation, see `Alone`, or by programs that do the same for many
runs at once, see `quped_jax.experiment.together`.
"""

import warnings
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from quped_jax.experiment import dispatch, divergence_reports, summary
from quped_jax.experiment.callbacks.base import Evaluation
from quped_jax.experiment.clock import Clock
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.job import Job
from quped_jax.experiment.resume import Interrupted, Progress
from quped_jax.simulation.client_tables import Measures, Scores
from quped_jax.simulation.simulation import Simulation
from quped_jax.simulation.state import SimulationState


class Advance(NamedTuple):
  """Asks for rounds, in one dispatch; nothing is given back.

  Attributes:
    rounds: how many, at least one.
    finetune: whether the fine-tuning phase begins before them.
  """

  rounds: int
  finetune: bool


class Evaluate(NamedTuple):
  """Asks for an evaluation; an Evaluated is given back."""


Ask = Advance | Evaluate


class Evaluated(NamedTuple):
  """What an evaluation found.

  Attributes:
    metrics: of the last round that was asked for; {} if none was.
    scores: of all clients.
    seconds: per round since the last evaluation; NaN if none was asked for.
    measures: beside the scores, if any are asked for.
  """

  metrics: dict[str, Any]
  scores: Scores
  seconds: float
  measures: Measures = {}


class Held(Protocol):
  """Where a run's state is, after all that was asked for."""

  def state(self) -> SimulationState:
    """The state."""
    ...

  def records(self) -> SimulationState:
    """The same, of which the clients' and the server's states may be left out.

    It has the members, what diverged, and the round.
    """
    ...


class Stop(Protocol):
  """What may end a run, such as `Signals`."""

  def seen(self) -> int:
    """The signal that is to end the run now, or 0."""
    ...


class End(NamedTuple):
  """What the rounds of a run lead to, beside its state.

  Attributes:
    progress: with all evaluations.
    scores: after the last round.
    diverged: a report on each client that ever diverged.
    stopped: why it ended early, in words; None if it did not.
    measures: after the last round, beside the scores.
  """

  progress: Progress
  scores: Scores
  diverged: list[Any]
  stopped: str | None = None
  measures: Measures = {}


def rounds(
  job: Job,
  held: Held,
  progress: Progress,
  stop: Stop,
  at_once: int,
) -> Generator[Ask, Any, End]:
  """Goes through the rounds that are left, with checkpoints between.

  Args:
    job: the run.
    held: its state.
    progress: how far it has come.
    stop: looked at before rounds are asked for.
    at_once: the most rounds to ask for, see `dispatch.rounds_at_once`.

  Yields:
    What is to be done.

  Returns:
    What came of it.

  Raises:
    Interrupted: a signal came; a checkpoint is saved if there is a workdir.
    DivergenceError: the run ends, see `divergence_reports`; likewise.
    Exception: what a callback raised; likewise.
  """
  settings, saver = job.made.settings, job.saver
  diverged = divergence_reports.check_divergence(settings, held.records(), [])
  # Counted on the host: reading the state's would wait for the devices.
  round_ = int(held.records().round)
  if not progress.history and not progress.figures:
    progress.figures = job.recorder.begun(held.state)
  scores, measures = None, {}
  stopped = _stopped(job, held, progress, round_)
  while stopped is None and round_ < settings.rounds:
    _end_on_signal(job, held, progress, stop)
    until = dispatch.next_stop(settings, round_, at_once)
    job.telling.rounds(round_ + 1, until)
    # Never within the rounds that are asked for, see `next_stop`.
    due = bool(settings.finetune_at) and settings.finetune_at <= round_
    yield Advance(until - round_, due and not progress.finetuning)
    progress.finetuning |= due
    round_ = until
    if round_ != settings.rounds and round_ % settings.eval_every:
      if saver.is_due(round_):
        saver.save(held.state(), progress)
      _stopped(job, held, progress, round_)
      continue
    found: Evaluated = yield Evaluate()
    scores, measures = found.scores, found.measures
    progress.seconds.append(found.seconds)
    record = _record(job, found, progress, round_)
    progress.figures += job.recorder.evaluated(
      held.state, round_, scores["test"]
    )
    try:
      diverged = divergence_reports.check_divergence(
        settings, held.records(), diverged
      )
    except DivergenceError:
      saver.save(held.state(), progress)
      raise
    job.telling.evaluated(_evaluation(job, found, record, diverged))
    if saver.is_due(round_):
      saver.save(held.state(), progress)
    stopped = _stopped(job, held, progress, round_)
  if saver.is_due(round_, last=True) or stopped is not None:
    saver.save(held.state(), progress)
  # A signal during the last rounds: the same command does what is left.
  _end_on_signal(job, held, progress, stop)
  if scores is None:
    # The checkpoint was that of the last round, or of one to stop after.
    found = yield Evaluate()
    scores, measures = found.scores, found.measures
  return End(progress, scores, diverged, stopped, measures)


def _stopped(
  job: Job, held: Held, progress: Progress, round_: int
) -> str | None:
  """Why a callback stops the run after this round; None if none does.

  Raises:
    Exception: what a callback raised; a checkpoint is saved.
  """
  history = progress.history
  evaluated = bool(history) and history[-1]["round"] == round_
  wish = job.telling.wish(evaluated)
  if wish.failed:
    job.saver.save(held.state(), progress)
    job.telling.raise_error()
  early = evaluated and round_ < job.made.settings.rounds
  return wish.stop if early else None


def _end_on_signal(job: Job, held: Held, progress: Progress, stop) -> None:
  if number := stop.seen():
    job.saver.save(held.state(), progress)
    raise Interrupted(number, job.saver.note())


def _record(
  job: Job, found: Evaluated, progress: Progress, round_: int
) -> dict[str, Any]:
  """Records an evaluation."""
  record = {
    "round": round_,
    **{name: float(value) for name, value in found.metrics.items()},
    **{
      f"{split}/{name}": float(np.nanmean(values))
      for split, table in found.scores.items()
      for name, values in table.items()
    },
    **{
      key: value
      for split, table in found.measures.items()
      for measure, variants in table.items()
      for name, values in variants.items()
      for key, value in (
        (f"{measure}/{split}/{name}", summary.mean(values.clients)),
        (f"{measure}/{split}/{name}/pooled", values.pooled),
      )
    },
  }
  if not record["participants"] + record["diverged"]:
    warnings.warn(f"round {round_}: nobody took part", stacklevel=2)
  progress.history.append(record)
  primary = job.made.simulation.primary_variant
  progress.look(record, found.scores, primary)
  job.writer.metrics(record)
  return record


def _evaluation(
  job: Job, found: Evaluated, record: dict[str, Any], diverged: Sequence[Any]
) -> Evaluation:
  """What callbacks are told of an evaluation."""
  made, round_ = job.made, record["round"]
  participation = made.population.participation
  sending = participation.mean(made.settings.clients) * round_
  return Evaluation(
    round_,
    dict(record),
    found.seconds,
    sending * made.simulation.bytes_up,
    sending * made.simulation.bytes_down,
    tuple(report.client for report in diverged),
  )


class Alone:
  """Does what one run asks for, by its own simulation.

  Args:
    simulation: the run's.
    state: where it begins; its buffers are taken over.
  """

  def __init__(self, simulation: Simulation, state: SimulationState):
    self._simulation, self._state = simulation, state
    self._metrics: dict[str, Any] = {}
    self._clock = Clock(simulation.compile_seconds)

  def state(self) -> SimulationState:
    """See `Held`."""
    return self._state

  def records(self) -> SimulationState:
    """See `Held`."""
    return self._state

  def do(self, ask: Ask) -> Evaluated | None:
    """Does what is asked for."""
    if isinstance(ask, Advance):
      with self._clock.running(ask.rounds):
        if ask.finetune:
          self._state = self._simulation.begin_finetune(self._state)
        self._state, self._metrics = self._simulation.run_rounds(
          self._state, ask.rounds
        )
      return None
    with self._clock.running():
      jax.block_until_ready(self._state)
    scores, measures = self._simulation.measure(self._state)
    seconds = self._clock.seconds_per_round()
    return Evaluated(self._metrics, scores, seconds, measures)

  def follow(self, asking: Generator[Ask, Any, End]) -> End:
    """Does all that `rounds` asks for."""
    given = None
    while True:
      try:
        ask = asking.send(given)
      except StopIteration as end:
        return end.value
      given = self.do(ask)
