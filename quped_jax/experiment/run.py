"""From settings to results: a whole run, its files and its summary."""

import contextlib
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from quped_jax import models as models_lib
from quped_jax.data.federation import Federation
from quped_jax.experiment import deploy
from quped_jax.experiment import metrics as metrics_lib
from quped_jax.experiment import summary as summary_lib
from quped_jax.experiment.assemble import assemble, batch_shape
from quped_jax.experiment.resume import Interrupted, Progress, Saver, Signals
from quped_jax.experiment.settings import Settings
from quped_jax.files import checkpoint
from quped_jax.simulation import divergence, processes
from quped_jax.simulation.programs import Simulation, SimulationState

# Floating-point operations in one dispatch, at most, counted as plain SGD's
# network passes, of which QuPeD with levels takes about ten times as many:
# seconds on two CPU cores, after which progress is shown and a run can stop.
_WORK_PER_DISPATCH = 2e10
_MOST_ROUNDS = 1000


class DivergenceError(RuntimeError):
  """Clients diverged, and the run was to end then, or nobody else is left."""


class Result(NamedTuple):
  """What a run ends with.

  Attributes:
    summary: what `summary.json` holds.
    clients: a row per client, what `clients.csv` holds.
    history: a record per evaluated round, what `metrics.jsonl` holds.
    state: the SimulationState after the last round.
    simulation: the programs that made it.
  """

  summary: dict[str, Any]
  clients: list[dict[str, Any]]
  history: list[dict[str, Any]]
  state: SimulationState
  simulation: Simulation


def client_state(state: SimulationState, client_id: int) -> Any:
  """One client's own state, out of the stacked state of all.

  Raises:
    ValueError: no such client.
  """
  for cohort, members in state.members.items():
    (place,) = np.nonzero(np.asarray(members) == client_id)
    if client_id >= 0 and place.size:
      return jax.tree.map(lambda x, at=place[0]: x[at], state.clients[cohort])
  largest = max(int(np.max(members)) for members in state.members.values())
  raise ValueError(f"client_id={client_id}: must be from 0 to {largest}")


def _rounds_at_once(made) -> int:
  """How many rounds go in one dispatch where nothing happens between them.

  It follows from settings and model alone, never from elapsed time: a run that
  is repeated runs the same programs.
  """
  settings = made.settings
  if settings.rounds_per_dispatch:
    return settings.rounds_per_dispatch
  inputs = batch_shape(settings, made.federation)

  def forward_cost(model):
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    forward = jax.jit(
      lambda params, stats, x: model.apply(params, stats, x, True)
    )
    cost = forward.lower(*variables, inputs).cost_analysis() or {}
    return cost.get("flops", 0.0)

  most = max(forward_cost(model) for model in made.models.clients.values())
  passes = (settings.clients_per_round or settings.clients) * settings.steps * 3
  work = max(most * passes, 1.0)
  return int(min(max(_WORK_PER_DISPATCH // work, 1), _MOST_ROUNDS))


def _budget_note(made) -> str:
  """What the budgets came to, in words."""
  assignment = made.assignment.first(made.settings.clients)
  sizes, labels = made.model_bytes(), np.array(assignment.labels())
  counts = [
    f"{np.sum(labels == str(client_type))} x {client_type} "
    f"({int(sizes[labels == str(client_type)][0]):,} bytes)"
    for client_type in assignment.client_types
    if np.any(labels == str(client_type))
  ]
  return "budgets allow: " + ", ".join(counts)


def _next_stop(settings: Settings, done: int, at_once: int) -> int:
  """The round after which something happens, or the dispatch is full."""
  stops = [
    settings.rounds,
    done + at_once,
    (done // settings.eval_every + 1) * settings.eval_every,
  ]
  if settings.finetune_at > done:
    stops.append(settings.finetune_at)
  if settings.checkpoint_every:
    every = settings.checkpoint_every
    stops.append((done // every + 1) * every)
  return min(stops)


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

  A run with a workdir saves checkpoints there, and goes on from the latest if
  it was ended before: its results are, bit for bit, those of one that was not,
  on CPU with the same versions and devices. SIGTERM and Ctrl-C end it after the
  rounds that are under way, with a checkpoint.

  Args:
    settings: all settings.
    workdir: where results are written, by the first process if there are
      several; None for nowhere.
    federation: used instead of the one that the settings describe, if given.
    model: likewise.
    state: where to go on from, after fewer than `settings.rounds` rounds,
      instead of fresh weights; its buffers are taken over.
    display: shows progress; by default a live display on a terminal and log
      lines elsewhere. `Display(quiet=True)` shows nothing.
    resume: whether to go on from the workdir's checkpoints; if not, or if a
      state is given, they are deleted.

  Returns:
    The result, which is also in the workdir.

  Raises:
    ValueError: settings that cannot be, before anything is compiled; or a
      workdir with checkpoints of another run, or that another run uses.
    Interrupted: by a signal; a checkpoint is saved.
    DivergenceError: a client diverged and `on_divergence` is "raise"; or
      everyone did, in three rounds in a row or in all there were.
    OSError: results cannot be written; a note says what is saved.
  """
  began = time.perf_counter()
  first = processes.is_first()
  writer = metrics_lib.Writer(workdir if first else None)
  with contextlib.ExitStack() as held:
    if workdir is not None and first:
      held.enter_context(checkpoint.lock(workdir))
    made = assemble(
      settings, federation=federation, model=model, workdir=workdir
    )
    deploy.check(made, workdir, model_given=model is not None)
    if state is not None and int(state.round) >= settings.rounds:
      raise ValueError(
        f"rounds={settings.rounds}: must be more than {int(state.round)}, the "
        "rounds that the state has behind it"
      )
    if display is None or not first:
      display = metrics_lib.Display(quiet=not first)
    saver = Saver(made, settings, workdir, anew=not resume)
    resume = resume and state is None
    try:
      return _run(
        made, settings, state, writer, display, saver, resume, workdir, began
      )
    except OSError as error:
      error.add_note(saver.note())
      raise


def _run(
  made, given, state, writer, display, saver, resume, workdir, began
) -> Result:
  settings, simulation = made.settings, made.simulation
  progress = Progress()
  saved = saver.latest() if resume else None
  if saved:
    state, progress = saved
    writer.go_on(progress.history)
    display.note(f"goes on after round {int(state.round)}, from a checkpoint")
  else:
    if state is None:
      state = simulation.init(settings.seed)
    elif settings.finetune_at:
      progress.finetuning = int(state.round) > settings.finetune_at
    # From here on the run is valid: an earlier one in this workdir makes way.
    saver.clear()
    writer.start(given.to_dict())
    if workdir is not None and processes.is_first():
      deploy.clear(workdir)

  if settings.budget_bytes:
    display.note(_budget_note(made))
  at_once = _rounds_at_once(made)
  history, seconds, rounds_timed = progress.history, progress.seconds, 0
  accuracy = None
  diverged = _check_divergence(settings, state, [])
  with (
    display.show(settings.method, settings.rounds) as update,
    Signals(saver.saves) as signals,
  ):
    jax.block_until_ready(state)
    start = time.perf_counter()
    round_ = int(state.round)
    while round_ < settings.rounds:
      if number := signals.seen():
        saver.save(state, progress)
        raise Interrupted(number, saver.note())
      compiling = simulation.compile_seconds()
      begins = settings.finetune_at and settings.finetune_at <= round_
      if begins and not progress.finetuning:
        state = simulation.begin_finetune(state)
        progress.finetuning = True
      stop = _next_stop(settings, round_, at_once)
      state, metrics = simulation.run_rounds(state, stop - round_)
      start += simulation.compile_seconds() - compiling
      rounds_timed += stop - round_
      round_ = stop
      if round_ != settings.rounds and round_ % settings.eval_every:
        update(round_)
        start += saver.save_if_due(round_, state, progress)
        continue
      jax.block_until_ready(state)
      seconds.append((time.perf_counter() - start) / rounds_timed)
      accuracy = simulation.evaluate(state)
      record = {
        "round": round_,
        **{name: float(value) for name, value in metrics.items()},
        **{
          f"{split}/{name}": float(np.nanmean(values))
          for split, table in accuracy.items()
          for name, values in table.items()
        },
      }
      if not record["participants"] + record["diverged"]:
        warnings.warn(f"round {round_}: nobody took part", stacklevel=2)
      history.append(record)
      progress.look(record, accuracy, simulation.primary_variant)
      writer.metrics(record)
      try:
        diverged = _check_divergence(settings, state, diverged)
      except DivergenceError:
        saver.save(state, progress)
        raise
      update(round_, record, seconds[-1])
      saver.save_if_due(round_, state, progress)
      start, rounds_timed = time.perf_counter(), 0
    saver.save_if_due(round_, state, progress, last=True)
    # During the last rounds: what is to come is run by the same command.
    if number := signals.seen():
      saver.save(state, progress)
      raise Interrupted(number, saver.note())

  if accuracy is None:
    # All rounds were behind the checkpoint.
    accuracy = simulation.evaluate(state)
  if diverged:
    display.note(_divergence_note(diverged))
  if settings.save_models != "none":
    assert workdir is not None  # As checked.
    deploy.save_models(made, state, workdir)
  summary = summary_lib.summarize(
    made, state, progress, accuracy["test"], diverged
  )
  summary["timing"]["total_seconds"] = time.perf_counter() - began
  rows = summary_lib.client_rows(made, accuracy["test"])
  writer.clients(rows)
  writer.summary(summary)
  return Result(summary, rows, history, state, simulation)


def _divergence(state: SimulationState) -> list[divergence.DivergenceReport]:
  """The clients that diverged so far."""
  if not int(state.monitor.undone):
    return []
  found = state.members, state.divergence
  if jax.process_count() > 1:
    found = multihost_utils.process_allgather(found, tiled=True)
  return divergence.divergence_reports(*found)


def _names(clients: Sequence[int], most: int = 10) -> str:
  """Numbers of clients, in words."""
  numbers = ", ".join(map(str, clients[:most]))
  if len(clients) > most:
    numbers += f" and {len(clients) - most} more"
  return f"client{'s' * (len(clients) > 1)} {numbers}"


_ADVICE = "a smaller learning_rate may help"


def _check_divergence(
  settings: Settings,
  state: SimulationState,
  known: list[divergence.DivergenceReport],
) -> list[divergence.DivergenceReport]:
  """Warns of clients that diverged since the last look, or ends the run.

  Returns:
    The clients that diverged so far.
  """
  now, round_ = _divergence(state), int(state.round)
  failed = int(state.monitor.failed)
  if failed >= 0:
    raise DivergenceError(
      f"round {1 + failed}: what the server made of the messages is not "
      "finite; its state is left as it was before"
    )
  before = {x.client: x.undone for x in known}
  new = [x for x in now if x.undone > before.get(x.client, 0)]
  if not new:
    return now
  who = _names([x.client for x in new])
  if settings.on_divergence == "raise":
    raise DivergenceError(
      f"round {1 + min(x.last for x in new)}: {who} diverged, and "
      f"on_divergence='raise'; {_ADVICE} (learning_rate="
      f"{settings.learning_rate})"
    )
  # Both stay true: neither when one looks nor a checkpoint between changes it.
  in_all = round_ == settings.rounds and int(state.monitor.lost) >= round_
  if bool(state.monitor.over) or in_all:
    raise DivergenceError(
      f"round {round_}: every client that took part diverged, {who}, in "
      f"{'all rounds' if in_all else f'{divergence.IN_A_ROW} rounds or more'} "
      f"in a row; {_ADVICE} (learning_rate={settings.learning_rate})"
    )
  # Once for each; at the end the run says how often.
  first = [x.client for x in new if x.client not in before]
  if first:
    warnings.warn(
      f"round {round_}: {_names(first)} diverged and the round is undone for "
      f"them; {_ADVICE}",
      stacklevel=3,
    )
  return now


def _divergence_note(diverged: Sequence[divergence.DivergenceReport]) -> str:
  """What became of clients that diverged, in words."""
  undone = sum(x.undone for x in diverged)
  note = (
    f"{_names([x.client for x in diverged])} diverged; {undone} of their "
    "rounds are undone"
  )
  often = [x.client for x in diverged if x.longest >= divergence.IN_A_ROW]
  if often:
    note += f", {divergence.IN_A_ROW} or more in a row of {_names(often)}"
  return note
