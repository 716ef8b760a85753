"""From settings to results: a whole run, its files and its summary."""

import dataclasses
import functools
import os
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import codebook as codebook_lib
from quped_jax import data as data_lib
from quped_jax import memory as memory_lib
from quped_jax import methods
from quped_jax import metrics as metrics_lib
from quped_jax import models as models_lib
from quped_jax.alternating import Rates
from quped_jax.data.augment import check_augment
from quped_jax.federation import (
  Federation,
  make_federation,
  synthetic_federation,
)
from quped_jax.methods import api
from quped_jax.settings import Settings
from quped_jax.simulate import (
  Population,
  Simulation,
  SimulationState,
  make_simulation,
)
from quped_jax.weights import load_weights

_COHORT = "clients"

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


def load_federation(
  settings: Settings, dataset: data_lib.Dataset | None = None
) -> Federation:
  """Loads the data that the settings name and divides it over the clients.

  Args:
    settings: dataset, partition and number of clients.
    dataset: used instead of the one that the settings name, if given.

  Raises:
    ValueError: data or a partition that cannot be; the message names the
      field.
  """
  # Before the data, which may have to be fetched first.
  if settings.model not in models_lib.model_names():
    api.check_choice("model", settings.model, models_lib.model_names())
  if dataset is None and settings.dataset == "synthetic":
    source = data_lib.SyntheticSource(
      settings.seed, classes_per_client=settings.classes_per_client
    )
    check_augment(settings.augment, source.shape)
    return synthetic_federation(
      source,
      settings.clients,
      validation_fraction=settings.validation_fraction,
    )
  if dataset is None:
    api.check_choice(
      "dataset", settings.dataset, (*data_lib.dataset_names(), "synthetic")
    )
    dataset = data_lib.load_dataset(settings.dataset, settings.data_dir or None)
  parts = data_lib.partition(
    dataset,
    settings.partition,
    settings.clients,
    seed=settings.seed,
    classes_per_client=settings.classes_per_client,
    alpha=settings.alpha,
    min_size=settings.min_size,
    shards_per_client=settings.shards_per_client,
    groups_per_client=settings.groups_per_client,
    train_fraction=settings.train_fraction,
    validation_fraction=settings.validation_fraction,
  )
  return make_federation(dataset, parts, augment=settings.augment)


def load_model(settings: Settings, federation: Federation) -> models_lib.Model:
  """The network that the settings name, shaped for the federation's data."""
  shape = jax.eval_shape(federation.example).shape
  options: dict[str, Any] = {}
  if settings.hidden:
    options["features"] = settings.hidden
  if settings.compute_dtype != "float32":
    if not models_lib.takes_dtype(settings.model):
      raise ValueError(
        f"compute_dtype={settings.compute_dtype!r}: must be 'float32' with "
        f"model={settings.model!r}, which takes no dtype"
      )
    options["dtype"] = jnp.dtype(settings.compute_dtype)
  model = models_lib.create_model(
    settings.model,
    federation.num_classes,
    image_channels=shape[-1] if len(shape) == 4 else None,
    conv=settings.conv,
    **options,
  )
  if settings.warm_start:
    like = jax.eval_shape(model.init, jax.random.key(0), federation.example())
    weights = load_weights(settings.warm_start, *like)
    model = model._replace(init=lambda key, inputs: weights)
  return model


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


def population_of(settings: Settings) -> Population:
  """What each client brings: precision and step sizes, in turn."""

  def floats(values):
    return jnp.asarray(settings.per_client(values), jnp.float32)

  return Population(
    spec=api.ClientSpec(
      bits=jnp.asarray(settings.per_client(settings.bits), jnp.int32)
    ),
    rates=Rates(
      learning_rate=floats(settings.learning_rate),
      centers_learning_rate=floats(settings.centers_learning_rate),
      strength=floats((settings.strength,)),
    ),
    shared_learning_rate=jnp.float32(settings.shared_learning_rate),
  )


def build(
  settings: Settings,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
) -> tuple[Simulation, Federation, models_lib.Model]:
  """Makes the simulation that the settings describe.

  Args:
    settings: all settings.
    federation: used instead of the one that the settings describe, if given.
    model: likewise.

  Returns:
    The simulation, its data and its model. Nothing is compiled yet.

  Raises:
    ValueError: settings that do not fit each other or the data.
  """
  settings, federation, model = _resolve(settings, federation, model)
  return _simulation(settings, federation, model), federation, model


def _resolve(
  settings: Settings, federation: Federation | None, model
) -> tuple[Settings, Federation, models_lib.Model]:
  """Data, model, and the settings as they are for them."""
  federation = federation or load_federation(settings)
  if federation.num_clients != settings.clients:
    raise ValueError(
      f"clients={settings.clients}: must be {federation.num_clients}, the "
      "number of clients of the given federation"
    )
  if model is not None and settings.compute_dtype != "float32":
    raise ValueError(
      f"compute_dtype={settings.compute_dtype!r}: must be 'float32' with a "
      "given model, which computes in the type that it was made for"
    )
  model = model or load_model(settings, federation)
  if settings.quantized:
    _check_quantizable(settings, federation, model)
  if not settings.steps:
    average = np.mean(np.asarray(federation.train.count))
    steps = max(int(average) // settings.batch_size, 1)
    settings = dataclasses.replace(settings, steps=steps)
  return settings, federation, model


def _check_quantizable(settings, federation, model) -> None:
  params, _ = jax.eval_shape(
    model.init, jax.random.key(0), federation.example()
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  names = [codebook_lib.path_name(path) for path, _ in leaves]
  if not any(model.is_quantized(name) for name in names):
    raise ValueError(
      f"bits={settings.bits}: must be {codebook_lib.FULL_PRECISION} for a "
      f"model with nothing to quantize; of {model.name!r} that is "
      f"{', '.join(names)} (kernels of hidden layers are quantized: give "
      "'mlp' two hidden widths at least, or the model a predicate)"
    )


def _simulation(settings, federation, model) -> Simulation:
  entry = methods.get_method(settings.method)
  method = entry.make(
    api.Models(shared=model, clients={_COHORT: model}),
    None,
    settings.training(),
    settings.options(),
  )
  if settings.finetune_at and method.begin_finetune is None:
    raise ValueError(
      f"finetune_at={settings.finetune_at}: must be 0 with "
      f"method={settings.method!r}, which has no second phase"
    )
  return make_simulation(
    method,
    federation,
    population_of(settings),
    {_COHORT: np.arange(federation.num_clients)},
    schedule=settings.schedule(),
    strategy=settings.strategy,
    chunk_size=settings.chunk_size,
    devices=settings.devices,
    clients_per_round=settings.clients_per_round or None,
    step_bytes=functools.partial(
      memory_lib.step_bytes,
      model,
      _batch_shape(settings, federation),
      quantized=settings.quantized,
    ),
  )


def _batch_shape(settings, federation) -> jax.ShapeDtypeStruct:
  example = jax.eval_shape(federation.example)
  shape = (settings.batch_size, *example.shape[1:])
  return jax.ShapeDtypeStruct(shape, example.dtype)


def _spread(values: np.ndarray) -> dict[str, float]:
  """Accuracy over clients, as fractions."""
  present = values[~np.isnan(values)]
  return {
    "mean": float(np.mean(present)),
    "std": float(np.std(present)),
    "worst": float(np.min(present)),
    "p10": float(np.percentile(present, 10)),
    "best": float(np.max(present)),
  }


def _table(accuracy: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
  return {name: _spread(values) for name, values in accuracy.items()}


def _client_rows(settings, federation, model, accuracy) -> list[dict[str, Any]]:
  train, test = (
    np.asarray(split.count) for split in (federation.train, federation.test)
  )
  bits = settings.per_client(settings.bits)
  return [
    {
      "client": i,
      "model": model.name,
      "bits": int(bits[i]),
      "train_samples": int(train[i]),
      "test_samples": int(test[i]),
      **{name: float(values[i]) for name, values in accuracy.items()},
    }
    for i in range(federation.num_clients)
  ]


def _peak_rss() -> int:
  """Largest memory of this process so far, all its runs together, bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def _device_peak() -> int | None:
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


def _rounds_at_once(settings, federation, model) -> int:
  """How many rounds go in one dispatch where nothing happens between them.

  It follows from settings and model alone, never from elapsed time: a run that
  is repeated runs the same programs.
  """
  if settings.rounds_per_dispatch:
    return settings.rounds_per_dispatch
  inputs = _batch_shape(settings, federation)
  variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
  forward = jax.jit(
    lambda params, stats, x: model.apply(params, stats, x, True)
  )
  cost = forward.lower(*variables, inputs).cost_analysis() or {}
  passes = (settings.clients_per_round or settings.clients) * settings.steps * 3
  work = max(cost.get("flops", 0.0) * passes, 1.0)
  return int(min(max(_WORK_PER_DISPATCH // work, 1), _MOST_ROUNDS))


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
    workdir: where results are written; None for nowhere.
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
  writer = metrics_lib.Writer(workdir)
  settings, federation, model = _resolve(settings, federation, model)
  simulation = _simulation(settings, federation, model)
  if state is not None and int(state.round) >= settings.rounds:
    raise ValueError(
      f"rounds={settings.rounds}: must be more than {int(state.round)}, the "
      "rounds that the state has behind it"
    )
  # From here on the run is valid: an earlier one in this workdir makes way.
  writer.start(settings.to_dict())
  display = display or metrics_lib.Display()
  if state is None:
    state = simulation.init(settings.seed)

  at_once = _rounds_at_once(settings, federation, model)
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
      if not np.isfinite(record["loss"]):
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
    "model": model.name,
    "bits": list(settings.bits),
    "seed": settings.seed,
    "clients": federation.num_clients,
    "rounds": settings.rounds,
    "headline": headline,
    "accuracy": _table(evaluated[-1]["test"]),
    **_best_rounds(history, evaluated, headline),
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
    },
  }
  rows = _client_rows(settings, federation, model, evaluated[-1]["test"])
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
