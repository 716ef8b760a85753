"""Suite `accelerator`: what matters on a GPU, most important first.

Every row is a number of its own, measured after the others: only ratios within
one call are meaningful. Groups:

- whole steps: rounds of CNN1, 50 clients, batch 32, 10 steps, per client step.
- PyTorch: the same network in PyTorch, a loop over clients, and all of them
  batched by `torch.func`; ours with 8 clients beside it.
- small models: rounds of the digits' MLP, 10 steps, which latency bounds; with
  the operations that the compiled program starts per step.
- sweeps: rounds of 48 runs at once, against rounds of one run, 48 times.
- strategies: whole steps in other layouts.
- memory: local training of an MLP under vmap and in chunks; copies of all
  clients' states that the compiled round takes.
- pieces: see `pieces.py`.

`experiments/benchmarks/README.md` says which aim each row is for.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import quped_jax as qj
from experiments.benchmarks import (
  engine,
  operations,
  pieces,
  tasks,
  torch_loop,
)
from experiments.benchmarks.rows import MissingError, Row, Work
from quped_jax.experiment.build_clients import build_population

STEPS, TORCH, SMALL = "whole steps", "PyTorch", "small models"
STRATEGIES, MEMORY, SWEEPS = "strategies", "memory", "sweeps"
STEP, ROUND = "client step", "round"

_MIXED = (1, 2, 4, 32)
_CLIENTS, _FEW, _MANY = 50, 8, 1000
_TINY_CLIENTS = 4
_RUNS, _TINY_RUNS = 48, 3
_SWEPT_CLIENTS = 16


def all_rows() -> list[Row]:
  """All rows in the order in which they are measured, with unique keys."""
  return [
    *_whole_steps(),
    *_small_models(),
    *_sweeps(),
    *_torch(),
    *_strategies(),
    *_memory(),
    *pieces.rows(),
  ]


def rows_here() -> list[Row]:
  """Those that can be measured: without PyTorch's where it is missing."""
  found = torch_loop.available()
  return [row for row in all_rows() if found or row.ours]


def _whole_steps() -> Iterator[Row]:
  sgd: dict[str, Any] = {}

  def quped(*bits):
    return {"method": "quped", "bits": bits}

  first = (
    ("SGD", sgd, 12.0),
    ("QuPeD 1 bit", quped(1), 20.0),
    ("QuPeD mixed", quped(*_MIXED), 30.0),
  )
  for dtype in ("float32", "bfloat16"):
    for name, settings, weight in first:
      yield _steps(f"{name}, {dtype}", weight, dtype=dtype, **settings)
  for dtype in ("float32", "bfloat16"):
    yield _steps(f"QuPeD 8 bits, {dtype}", 20.0, dtype=dtype, **quped(8))
  yield _steps("QuPeD 4 bits, float32", 20.0, **quped(4))
  yield _steps(
    "QuPeD mixed, float32, deterministic",
    30.0,
    deterministic=True,
    **quped(*_MIXED),
  )


def _steps(
  name: str,
  weight: float,
  group: str = STEPS,
  clients: int = _CLIENTS,
  **settings: Any,
) -> Row:
  def make(quick):
    if not quick:
      work = clients * tasks.CNN1.steps
      return _rounds(tasks.CNN1, clients, work, **settings)
    # Few levels, and no convolutions besides: these take long to compile.
    bits = [b if b == 32 else min(b, 2) for b in settings.get("bits", (32,))]
    task = tasks.TINY if "method" in settings else tasks.TINY_CNN1
    work = _TINY_CLIENTS * task.steps
    tiny = {**settings, "bits": tuple(bits)}
    return _rounds(task, _TINY_CLIENTS, work, **tiny)

  return Row(group, name, STEP, weight, make)


def _rounds(
  task: tasks.Task,
  clients: int,
  units: float,
  details: Callable[[engine.Rounds, Any], dict[str, Any]] | None = None,
  **settings: Any,
) -> Work:
  """Rounds of the engine on one device.

  Args:
    task: what clients do.
    clients: how many.
    units: of work in a round.
    details: what is to be known of the rounds, given their settings.
    **settings: see `tasks.Task.rounds`.
  """
  fields = {field.name for field in dataclasses.fields(qj.Settings)}
  unknown = settings.keys() - fields - {"dtype"}
  if unknown:
    raise MissingError(f"no setting {', '.join(sorted(unknown))}")
  settings = {"devices": 1, **settings}
  rounds = task.rounds(task.federation(clients), **settings)
  layout = rounds.simulation.layout
  return Work(
    rounds,
    units,
    rounds.simulation.compile_seconds,
    lambda: {
      "clients": clients,
      **task.sizes(),
      "clients_at_once": layout.chunk_size,
      **(details(rounds, settings) if details else {}),
    },
  )


def _small_models() -> Iterator[Row]:
  for name, settings in (
    ("SGD", {}),
    ("QuPeD 1 bit", {"method": "quped", "bits": (1,)}),
  ):
    for clients in (16, 1024):
      yield _small(f"digits MLP, {name}, {clients} clients", clients, settings)


def _small(name: str, clients: int, settings: dict[str, Any]) -> Row:
  def make(quick):
    task = tasks.TINY if quick else tasks.DIGITS
    count = _TINY_CLIENTS if quick else clients
    federation = task.federation(count)

    def details(rounds, settings):
      text = _text(rounds, federation, task, count, settings)
      started = operations.executed(text)
      return {"operations_per_step": started / task.steps}

    return _rounds(task, count, 1, details, **settings)

  return Row(SMALL, name, ROUND, 10.0, make)


def _text(rounds, federation, task, clients, settings) -> str:
  """The compiled program of one round."""
  given = {name: value for name, value in settings.items() if name != "dtype"}
  population = build_population(
    qj.Settings(
      **{
        "clients": clients,
        "method": "local",
        "bits": (32,),
        "learning_rate": (0.01,),
        "shared_learning_rate": 0.01,
        "steps": task.steps,
        "batch_size": task.batch,
        **given,
      }
    )
  )
  program = rounds.simulation.program
  compiled = program.compile(rounds.state, jnp.int32(1), federation, population)
  return compiled.as_text() or ""


def _sweeps() -> Iterator[Row]:
  """Of all runs of a sweep together: seeds and step sizes are data."""

  def row(name, at_once):
    def make(quick):
      task = tasks.TINY if quick else tasks.DIGITS
      clients = _TINY_CLIENTS if quick else _SWEPT_CLIENTS
      runs = _TINY_RUNS if quick else _RUNS
      single = task.rounds(
        task.federation(clients), devices=1, method="quped", bits=(1, 2, 32)
      )
      if getattr(single.simulation, "axis", None) is None:
        raise MissingError("no runs at once")
      # One run is measured once, and counts as often as there are runs.
      return Work(
        engine.RunsAtOnce(single.simulation, runs) if at_once else single,
        1 if at_once else 1 / runs,
        single.simulation.compile_seconds,
        lambda: {"runs": runs, "clients": clients, **task.sizes()},
      )

    return Row(SWEEPS, name, "round of all runs", 15.0, make)

  yield row("sweep: 48 runs of digits QuPeD", True)
  yield row("one run of digits QuPeD, 48 times", False)


def _torch() -> Iterator[Row]:
  yield _steps(f"ours, SGD, {_FEW} clients", 12.0, TORCH, _FEW)

  def torch_row(name, clients, batched):
    def make(quick):
      task = tasks.TINY_CNN1 if quick else tasks.CNN1
      count = 3 if quick else clients
      start = task.torch_batched if batched else task.torch_loop
      return Work(start(count), count * task.steps)

    return Row(TORCH, f"{name}, {clients} clients", STEP, 5.0, make, ours=False)

  for clients in (_FEW, _CLIENTS):
    yield torch_row("loop over clients", clients, False)
    yield torch_row("torch.func over clients", clients, True)


def _strategies() -> Iterator[Row]:
  for name, settings in (
    ("SGD", {}),
    ("QuPeD mixed", {"method": "quped", "bits": _MIXED}),
  ):
    for strategy, size in (("vmap", 1), ("chunks", 10), ("dispatch", 10)):
      how = f"{strategy} of {size}" if size > 1 else strategy
      yield _steps(
        f"{name}, {how}",
        20.0,
        STRATEGIES,
        strategy=strategy,
        chunk_size=size,
        **settings,
      )


def _memory() -> Iterator[Row]:
  for strategy, size in (("auto", 1), ("vmap", 1), ("chunks", 100)):
    how = f"{strategy} of {size}" if size > 1 else strategy
    yield _memory_row(f"MLP, {_MANY} clients, {how}", strategy, size)


def _memory_row(name: str, strategy: str, size: int) -> Row:
  def details(rounds, settings):
    del settings
    data = rounds.simulation.data_bytes
    used = rounds.round_bytes - data
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
      "copies_of_state": used / rounds.client_bytes,
      "allocator_peak_bytes": stats.get("peak_bytes_in_use"),
    }

  def make(quick):
    task, clients = (tasks.TINY, 8) if quick else (tasks.MNIST, _MANY)
    return _rounds(
      task,
      clients,
      clients,
      details,
      strategy=strategy,
      chunk_size=min(size, clients),
    )

  return Row(MEMORY, name, "client round", 12.0, make)
