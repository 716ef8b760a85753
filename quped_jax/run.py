"""From settings to results: a whole run, its files and its summary."""

import contextlib
import dataclasses
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from quped_jax import checkpoint, deploy, health, processes, version
from quped_jax import metrics as metrics_lib
from quped_jax import models as models_lib
from quped_jax.assemble import assemble, batch_shape
from quped_jax.federation import Federation
from quped_jax.settings import Settings
from quped_jax.simulate import Simulation, SimulationState

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


class Interrupted(KeyboardInterrupt):
  """A signal ended a run, after a checkpoint.

  Args:
    number: of the signal.
    note: what was saved, in words.
  """

  def __init__(self, number: int, note: str):
    super().__init__(f"stopped by {signal.Signals(number).name}: {note}")
    self.signal = number


class _Signals:
  """Remembers SIGTERM and Ctrl-C instead of ending at once; the first of them.

  A second one ends the process as ever. Where there are several processes, JAX
  hears SIGTERM and tells the others.

  Args:
    wanted: whether to; only the main thread can.
  """

  def __init__(self, wanted: bool):
    main = threading.current_thread() is threading.main_thread()
    self._numbers = [signal.SIGTERM, signal.SIGINT] if wanted and main else []
    self._before: dict[int, Any] = {}
    self._seen = 0
    self._turn = 0

  def __enter__(self):
    for number in self._numbers:
      self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_):
    self._restore()

  def _restore(self):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number, frame):
    del frame
    self._seen = number
    self._restore()

  def seen(self) -> int:
    """The signal that ends the run now, or 0; all processes ask in turn."""
    self._turn += 1
    if jax.process_count() > 1:
      if not getattr(jax.config, "jax_enable_preemption_service", True):
        return 0
      ends = multihost_utils.reached_preemption_sync_point(self._turn)
      return signal.SIGTERM if ends else 0
    return self._seen


@dataclasses.dataclass
class Progress:
  """What a run has come to, beside its state; JSON values.

  Attributes:
    history: a record per evaluated round.
    best: by split, the evaluated round that is best on it: its number, its
      value and the table of test accuracies.
    seconds: per round, of all stretches between evaluations.
    second_phase: whether it has begun.
  """

  history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  best: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  seconds: list[float] = dataclasses.field(default_factory=list)
  second_phase: bool = False

  def look(self, record: Any, accuracy: Any, headline: str) -> None:
    """Takes note of an evaluated round, if it is the best so far."""
    for split, table in accuracy.items():
      value = float(np.nanmean(table[headline]))
      if split not in self.best or value > self.best[split]["value"]:
        self.best[split] = {
          "round": record["round"],
          "value": value,
          "accuracy": _table(accuracy["test"]),
        }

  def value(self, round_: int, headline: str) -> float | None:
    """How good the model is after a round, if it was evaluated then."""
    if not self.history or self.history[-1]["round"] != round_:
      return None
    record = self.history[-1]
    split = "validation" if "validation" in self.best else "test"
    return record[f"{split}/{headline}"]

  def best_rounds(self) -> dict[str, Any]:
    """The rounds that are best on validation data and on test data."""
    chosen = self.best.get("validation", {"round": None, "accuracy": None})
    oracle = self.best["test"]
    return {
      "best_round": chosen["round"],
      "accuracy_best_round": chosen["accuracy"],
      "oracle_best": {
        "round": oracle["round"],
        "accuracy": oracle["accuracy"],
      },
    }


# Settings that change no result, or only how it is rounded.
_FREE = (
  "data_dir",
  "strategy",
  "chunk_size",
  "devices",
  "client_state",
  "clients_per_block",
  "rounds_per_dispatch",
  "checkpoint_every",
  "checkpoint_minutes",
  "keep_checkpoints",
  "save_models",
)


class _Saver:
  """When checkpoints are saved, and what is in them; see Checkpoints.

  Args:
    made: what is run.
    given: its settings, as they were given.
    workdir: None saves nothing.
    anew: whether the run was asked to begin anew.
  """

  def __init__(self, made, given: Settings, workdir, anew: bool):
    self.workdir = "" if workdir is None else os.fspath(workdir)
    self._simulation, self._settings = made.simulation, given
    self._how = "without --restart, " if anew else ""
    # Clocks differ between processes, which save together; and signals come to
    # one of them.
    self.saves = bool(self.workdir) and jax.process_count() == 1
    self._minutes = given.checkpoint_minutes if self.saves else 0.0
    self._saved, self._since = -1, time.monotonic()
    self._checkpoints: checkpoint.Checkpoints | None = None
    if self.workdir:
      settings = given.to_dict()
      self._checkpoints = checkpoint.Checkpoints(
        self.workdir,
        {
          **{
            name: value
            for name, value in settings.items()
            # Options of other methods say nothing.
            if name not in _FREE
            and (name == given.method or not isinstance(value, dict))
          },
          "version of quped_jax": version.__version__,
          "federation": checkpoint.fingerprint(made.federation),
          "participation": checkpoint.fingerprint(
            made.population.participation
          ),
          "networks": _model_name(made),
        },
        given.keep_checkpoints,
      )

  def clear(self) -> None:
    """Deletes the checkpoints of an earlier run."""
    if self._checkpoints is not None and processes.is_first():
      self._checkpoints.clear()

  def latest(self) -> tuple[SimulationState, Progress] | None:
    """What the latest checkpoint holds, if there is one."""
    if self._checkpoints is None:
      return None
    saved = self._checkpoints.latest(
      lambda progress: self._simulation.shapes(progress["second_phase"])
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
    """Saves a checkpoint; a warning if that cannot be."""
    round_ = int(state.round)
    if self._checkpoints is None or round_ == self._saved:
      return
    exported = self._simulation.export(state)
    self._since = time.monotonic()
    if not processes.is_first():
      self._saved = round_
      return
    value = progress.value(round_, self._simulation.headline)
    try:
      self._checkpoints.save(
        round_, exported, dataclasses.asdict(progress), value
      )
      self._saved = round_
    except OSError as error:
      warnings.warn(
        f"round {round_}: no checkpoint could be saved in {self.workdir} "
        f"({error}); the last one is as it was",
        stacklevel=3,
      )

  def note(self) -> str:
    """What there is to go on from, in words."""
    if self._saved < 0:
      where = f" in {self.workdir}" if self.workdir else ""
      return f"no checkpoint is saved{where}"
    return (
      f"round {self._saved} is saved in {self.workdir}, and the same command "
      f"{self._how}goes on from there"
    )

  def save_if_due(
    self,
    round_: int,
    state: SimulationState,
    progress: Progress,
    *,
    last: bool = False,
  ) -> float:
    """Saves one if it is time; after the last round, if there are others.

    Returns:
      How many seconds it took.
    """
    every, minutes = self._settings.checkpoint_every, self._minutes
    began = time.monotonic()
    if (
      (every and round_ % every == 0)
      or (minutes and began - self._since >= 60 * minutes)
      or (last and self._saved >= 0)
    ):
      self.save(state, progress)
    return time.monotonic() - began


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


def _spread(values: np.ndarray) -> dict[str, float]:
  """Accuracy over clients, as fractions."""
  present = values[~np.isnan(values)]
  if not present.size:
    return {}
  return {
    "mean": float(np.mean(present)),
    "std": float(np.std(present)),
    "worst": float(np.min(present)),
    "p10": float(np.percentile(present, 10)),
    "best": float(np.max(present)),
  }


def _table(accuracy: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
  return {name: _spread(values) for name, values in accuracy.items()}


def _client_rows(made, accuracy) -> list[dict[str, Any]]:
  train, test = (
    np.asarray(split.count)
    for split in (made.federation.train, made.federation.test)
  )
  kinds, sizes = made.assignment.kinds, made.model_bytes()
  several = len(made.models.clients) > 1
  return [
    {
      "client": i,
      "model": str(kind.network) if several else made.model.name,
      "bits": kind.bits,
      "model_bytes": int(sizes[i]),
      "train_samples": int(train[i]),
      "test_samples": int(test[i]),
      **{name: float(values[i]) for name, values in accuracy.items()},
    }
    for i in range(made.settings.clients)
    for kind in [kinds[made.assignment.of_client[i]]]
  ]


def _model_name(made) -> str:
  """The clients' network, or networks."""
  if len(made.models.clients) > 1:
    return ", ".join(made.models.clients)
  return made.model.name


def _kinds(made, accuracy) -> dict[str, dict[str, Any]]:
  """What each kind of client came to."""
  assignment = made.assignment.first(made.settings.clients)
  sizes, labels = made.model_bytes(), np.array(assignment.labels())
  table = {}
  for kind in assignment.kinds:
    own = labels == str(kind)
    if own.any():
      table[str(kind)] = {
        "clients": int(own.sum()),
        "model_bytes": int(sizes[own][0]),
        "accuracy": _table(
          {name: values[own] for name, values in accuracy.items()}
        ),
      }
  return table


def _peak_rss() -> int:
  """Largest memory of this process so far, all its runs together, bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def _device_peak() -> int | None:
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


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
    f"{np.sum(labels == str(kind))} x {kind} "
    f"({int(sizes[labels == str(kind)][0]):,} bytes)"
    for kind in assignment.kinds
    if np.any(labels == str(kind))
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
    saver = _Saver(made, settings, workdir, anew=not resume)
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
      progress.second_phase = int(state.round) > settings.finetune_at
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
    _Signals(saver.saves) as signals,
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
      if begins and not progress.second_phase:
        state = simulation.begin_finetune(state)
        progress.second_phase = True
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
      progress.look(record, accuracy, simulation.headline)
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
  summary = _summarize(made, state, progress, accuracy["test"], diverged)
  summary["timing"]["total_seconds"] = time.perf_counter() - began
  rows = _client_rows(made, accuracy["test"])
  writer.clients(rows)
  writer.summary(summary)
  return Result(summary, rows, history, state, simulation)


def _summarize(
  made,
  state: SimulationState,
  progress: Progress,
  accuracy: dict[str, np.ndarray],
  diverged: Sequence[health.Trouble],
) -> dict[str, Any]:
  """What `summary.json` holds, but for the time that all of it took."""
  settings, simulation = made.settings, made.simulation
  return {
    "method": settings.method,
    "dataset": made.federation.name,
    "model": _model_name(made),
    "bits": list(settings.turns),
    "seed": settings.seed,
    "clients": settings.clients,
    "clients_per_round": made.population.participation.mean(settings.clients),
    "rounds": settings.rounds,
    "steps": settings.steps,
    "headline": simulation.headline,
    "accuracy": _table(accuracy),
    **progress.best_rounds(),
    "kinds": _kinds(made, accuracy),
    "new_clients": _table(made.newcomers(state)),
    "diverged": [
      {"client": x.client, "rounds": x.undone, "in_a_row": x.longest}
      for x in diverged
    ],
    "privacy": made.privacy,
    "gradients": simulation.gradients,
    "bytes_up": simulation.bytes_up,
    "bytes_down": simulation.bytes_down,
    "timing": {
      "seconds_per_round": float(np.median(progress.seconds)),
      "compile_seconds": simulation.compile_seconds(),
      "clients_at_once": simulation.layout.at_once,
      "devices": simulation.layout.devices,
    },
    "memory": {
      "round_bytes": simulation.program.memory,
      "estimated_round_bytes": simulation.memory,
      "peak_rss_bytes": _peak_rss(),
      "device_peak_bytes": _device_peak(),
      "client_state_bytes": simulation.state_bytes,
      "data_bytes": simulation.data_bytes,
    },
  }


def _divergence(state: SimulationState) -> list[health.Trouble]:
  """The clients that diverged so far."""
  if not int(state.health.undone):
    return []
  found = state.members, state.watch
  if jax.process_count() > 1:
    found = multihost_utils.process_allgather(found, tiled=True)
  return health.troubles(*found)


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
  known: list[health.Trouble],
) -> list[health.Trouble]:
  """Warns of clients that diverged since the last look, or ends the run.

  Returns:
    The clients that diverged so far.
  """
  now, round_ = _divergence(state), int(state.round)
  failed = int(state.health.failed)
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
  in_all = round_ == settings.rounds and int(state.health.lost) >= round_
  if bool(state.health.over) or in_all:
    raise DivergenceError(
      f"round {round_}: every client that took part diverged, {who}, in "
      f"{'all rounds' if in_all else f'{health.IN_A_ROW} rounds or more'} in a "
      f"row; {_ADVICE} (learning_rate={settings.learning_rate})"
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


def _divergence_note(diverged: Sequence[health.Trouble]) -> str:
  """What became of clients that diverged, in words."""
  undone = sum(x.undone for x in diverged)
  note = (
    f"{_names([x.client for x in diverged])} diverged; {undone} of their "
    "rounds are undone"
  )
  often = [x.client for x in diverged if x.longest >= health.IN_A_ROW]
  if often:
    note += f", {health.IN_A_ROW} or more in a row of {_names(often)}"
  return note
