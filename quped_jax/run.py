"""From settings to results: a whole run, its files and its summary."""

import os
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import metrics as metrics_lib
from quped_jax import models as models_lib
from quped_jax import processes
from quped_jax.assemble import assemble, batch_shape
from quped_jax.federation import Federation
from quped_jax.settings import Settings
from quped_jax.simulate import Simulation, SimulationState

# Floating-point operations in one dispatch, at most, counted as plain SGD's
# network passes, of which QuPeD with levels takes about ten times as many:
# seconds on two CPU cores, after which progress is shown and a run can stop.
_WORK_PER_DISPATCH = 2e10
_MOST_ROUNDS = 1000


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
  return min(stops)


def run(
  settings: Settings,
  workdir: str | os.PathLike | None = None,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  state: SimulationState | None = None,
  display: metrics_lib.Display | None = None,
) -> Result:
  """Runs an experiment from its first round to its last.

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

  Returns:
    The result, which is also in the workdir.

  Raises:
    ValueError: settings that cannot be, before anything is compiled.
  """
  began = time.perf_counter()
  first = processes.is_first()
  writer = metrics_lib.Writer(workdir if first else None)
  made = assemble(settings, federation=federation, model=model, workdir=workdir)
  given, settings = settings, made.settings
  federation, simulation = made.federation, made.simulation
  if state is not None and int(state.round) >= settings.rounds:
    raise ValueError(
      f"rounds={settings.rounds}: must be more than {int(state.round)}, the "
      "rounds that the state has behind it"
    )
  if state is None:
    state = simulation.init(settings.seed)
  # From here on the run is valid: an earlier one in this workdir makes way.
  writer.start(given.to_dict())
  if display is None or not first:
    display = metrics_lib.Display(quiet=not first)

  if settings.budget_bytes:
    display.note(_budget_note(made))
  at_once = _rounds_at_once(made)
  history: list[dict[str, Any]] = []
  evaluated: list[dict[str, dict[str, np.ndarray]]] = []
  seconds, rounds_timed = [], 0
  with display.show(settings.method, settings.rounds) as update:
    jax.block_until_ready(state)
    start = time.perf_counter()
    round_ = int(state.round)
    while round_ < settings.rounds:
      compiling = simulation.compile_seconds()
      if settings.finetune_at and settings.finetune_at == round_:
        state = simulation.begin_finetune(state)
      stop = _next_stop(settings, round_, at_once)
      state, metrics = simulation.run_rounds(state, stop - round_)
      start += simulation.compile_seconds() - compiling
      rounds_timed += stop - round_
      round_ = stop
      if round_ != settings.rounds and round_ % settings.eval_every:
        update(round_)
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
      if not record["participants"]:
        warnings.warn(f"round {round_}: nobody took part", stacklevel=2)
      elif not np.isfinite(record["loss"]):
        warnings.warn(
          f"round {round_}: the loss is {record['loss']}; learning_rate="
          f"{settings.learning_rate} may be too large",
          stacklevel=2,
        )
      history.append(record)
      evaluated.append(accuracy)
      writer.metrics(record)
      update(round_, record, seconds[-1])
      start, rounds_timed = time.perf_counter(), 0

  headline = simulation.headline
  summary = {
    "method": settings.method,
    "dataset": federation.name,
    "model": _model_name(made),
    "bits": list(settings.turns),
    "seed": settings.seed,
    "clients": settings.clients,
    "clients_per_round": made.population.participation.mean(settings.clients),
    "rounds": settings.rounds,
    "steps": settings.steps,
    "headline": headline,
    "accuracy": _table(evaluated[-1]["test"]),
    **_best_rounds(history, evaluated, headline),
    "kinds": _kinds(made, evaluated[-1]["test"]),
    "new_clients": _table(made.newcomers(state)),
    "privacy": made.privacy,
    "gradients": simulation.gradients,
    "bytes_up": simulation.bytes_up,
    "bytes_down": simulation.bytes_down,
    "timing": {
      "seconds_per_round": float(np.median(seconds)),
      "compile_seconds": simulation.compile_seconds(),
      "clients_at_once": simulation.layout.at_once,
      "devices": simulation.layout.devices,
      "total_seconds": time.perf_counter() - began,
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
  rows = _client_rows(made, evaluated[-1]["test"])
  writer.clients(rows)
  writer.summary(summary)
  return Result(summary, rows, history, state, simulation)


def _best_rounds(history, evaluated, headline) -> dict[str, Any]:
  """The round that is best on validation data, and the best on test data."""

  def best(split):
    values = [np.nanmean(e[split][headline]) for e in evaluated]
    at = int(np.argmax(values))
    return history[at]["round"], _table(evaluated[at]["test"])

  result: dict[str, Any] = {"best_round": None, "accuracy_best_round": None}
  if "validation" in evaluated[-1]:
    result["best_round"], result["accuracy_best_round"] = best("validation")
  at, table = best("test")
  result["oracle_best"] = {"round": at, "accuracy": table}
  return result
