"""How a simulation is made: the compiled programs of a federation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from quped_jax import checks
from quped_jax.data import padding
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.simulation import layout as layout_lib
from quped_jax.simulation import measures as measures_lib
from quped_jax.simulation import sizes as sizes_lib
from quped_jax.simulation import store as store_lib
from quped_jax.simulation import sub_cohorts as sub_cohorts_lib
from quped_jax.simulation.blueprint import Blueprint
from quped_jax.simulation.evaluate import make_evaluation
from quped_jax.simulation.interface import Simulation
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.programs import Backend
from quped_jax.simulation.resident import Resident
from quped_jax.simulation.round import Engine, OfValues
from quped_jax.simulation.run_axis import RunAxis
from quped_jax.simulation.schedule import Schedule
from quped_jax.simulation.sizes import Sizes, StepBytes
from quped_jax.simulation.state import Population
from quped_jax.simulation.store import Store
from quped_jax.simulation.streamed import Streamed

# By where clients' states are kept.
BACKENDS: dict[str, Any] = {
  "device": Resident,
  "host": Streamed,
  "disk": Streamed,
}


def _check(ids, federation, population, method, store) -> None:
  checks.choice("client_state", store.where, store_lib.PLACES)
  num_clients = federation.num_clients
  everyone = np.sort(np.concatenate(list(ids.values())))
  if not np.array_equal(everyone, np.arange(num_clients)):
    raise ValueError(
      f"cohorts: must hold each of the {num_clients} clients once; got "
      f"{ {name: len(m) for name, m in ids.items()} }"
    )
  count = population.participation.count
  if count is not None and not 1 <= count <= num_clients:
    raise ValueError(
      f"clients_per_round={count}: must be from 1 to {num_clients}"
    )
  if store.where != "device" and method.collect is not None:
    raise ValueError(
      f"client_state={store.where!r}: must be 'device' with a method whose "
      "server looks at single messages"
    )


def make_simulation(
  method: api.FederatedMethod,
  federation: Federation,
  population: Population,
  cohorts: Mapping[str, np.ndarray],
  *,
  schedule: Schedule | None = None,
  strategy: str = "auto",
  chunk_size: int = 1,
  devices: int = 1,
  step_bytes: Mapping[str, StepBytes] | None = None,
  store: Store | None = None,
  max_message_norm: float = 0.0,
  deterministic: bool = False,
  for_levels: sub_cohorts_lib.ForLevels | None = None,
  of_values: OfValues | None = None,
  measures: measures_lib.OfValues | None = None,
  divided: bool | None = None,
  rounds: int = 1,
  others: Sequence[Federation] = (),
) -> Simulation:
  """Makes the programs that simulate a federation.

  Args:
    method: what clients and server do.
    federation: who holds which samples.
    population: what the clients bring, and who takes part when.
    cohorts: {name: ids of its clients}; each client is in one.
    schedule: of the rates; by default they are constant, except that the
      strength increases from round to round.
    strategy: "auto", "vmap", "chunks" or "dispatch", see `resolve_layout`.
    chunk_size: of "chunks" and "dispatch".
    devices: over how many devices the clients are divided; 0 for all.
    step_bytes: by cohort, how many bytes a client's local step needs, given
      `own` and `download`, see `memory.step_bytes`; None for 0.
    store: where the clients' states are kept; on the devices if None.
    max_message_norm: a client whose message is longer has diverged; 0 for 100
      times the median of earlier rounds, see `quped_jax.simulation.divergence`.
    deterministic: whether programs must give the same bits in every run on a
      GPU too, see `program.options`; what the method computes must allow it.
    for_levels: the method for clients that have no more levels than that, which
      may save time; None if all clients run the same.
    of_values: `(values, most levels) -> (method, schedule)`, what both are with
      the population's `values`, for clients that have no more levels; None for
      all of them. Programs take these numbers as data, so that with others they
      are the same, and `method` and `schedule` say what does not depend on
      them. None if nothing does.
    measures: `values -> {name: Measure}`, what `Simulation.measure` finds
      beside the score, given the population's `values`; None for nothing.
    divided: whether, with it, clients run in sub-cohorts where everyone takes
      part; None to choose, see `quped_jax.simulation.sub_cohorts`.
    rounds: how many are to be run, in which a division should pay.
    others: federations of further runs that the programs are to serve, see
      `Simulation.over`. They have the same clients, classes and shape of
      samples; tables of who has which samples get room for the largest.

  Returns:
    The simulation; nothing is compiled yet.

  Raises:
    ValueError: cohorts that do not hold every client once, or an argument out
      of range.

  Examples:
    `build` does this from settings. By hand, of four clients of one network:

    >>> made = qj.build(qj.Settings(method="local", clients=4, bits=(32,)))
    >>> federation, population = made.simulation.data
    >>> models = qj.methods.api.Models(made.model, {"mlp": made.model})
    >>> from quped_jax.experiment.training import make_training
    >>> local = qj.methods.get_method("local")
    >>> training = make_training(qj.Settings(steps=1))
    >>> method = local.make(models, training, local.options())
    >>> simulation = qj.make_simulation(
    ...   method, federation, population, {"mlp": np.arange(4)}
    ... )
    >>> simulation.layout.devices
    1
  """
  schedule, store = schedule or Schedule(), store or Store()
  lengths = padding.lengths_of([federation, *others])
  federation, *others = [
    padding.padded(x, lengths) for x in (federation, *others)
  ]
  ids = {name: np.asarray(m, np.int32) for name, m in cohorts.items()}
  _check(ids, federation, population, method, store)
  backend = BACKENDS[store.where]
  engine = Engine(
    method,
    schedule,
    {name: len(members) for name, members in ids.items()},
    Layout(None, 1),
    slots_are_participants=backend.streams,
    max_message_norm=max_message_norm,
    of_values=of_values,
  )
  sizes = sizes_lib.measure(engine, ids, federation, population, step_bytes)
  participants = population.participation.most(federation.num_clients)
  at_once = (
    store.block_clients(participants) if backend.streams else participants
  )
  engine = dataclasses.replace(
    engine, calibrate=not max_message_norm and sizes.up > 0
  )

  precisions = np.asarray(population.spec.bits)

  def parts(layout: Layout) -> dict[str, list[sub_cohorts_lib.Part]]:
    """Of the cohorts that are divided."""
    everyone = population.participation.is_everyone(federation.num_clients)
    if not (for_levels and everyone) or backend.streams or layout.on_host:
      return {}
    if divided is False:
      return {}
    found = {}
    for cohort, members in ids.items():
      shares = [precisions[own] for own in layout.groups([members])]
      clients = sub_cohorts_lib.divide(shares)
      pays = divided or sub_cohorts_lib.pay(
        jax.default_backend(),
        clients,
        max(map(len, shares)),
        sizes.estimate.client,
        rounds * population.participation.steps * len(members),
      )
      if pays and len(clients) > 1:
        found[cohort] = [
          sub_cohorts_lib.Part(part, for_levels(part.most)) for part in clients
        ]
    return found

  def run_by(layout: Layout, *, whole: bool = False) -> Simulation:
    divisions = {} if whole else parts(layout)
    laid_out = dataclasses.replace(engine, layout=layout, sub_cohorts=divisions)
    evaluation = make_evaluation(federation, layout.chunk_size, measures)
    programs = backend(
      Blueprint(
        laid_out,
        evaluation,
        ids,
        federation,
        population,
        store,
        deterministic,
        others,
      )
    )
    halved = None
    if strategy == "auto" and layout.chunk_size > 1:
      halved = functools.partial(run_by, layout.halved(), whole=whole)
    template = programs.template()
    # Made once, without data: runs that share programs share these too.
    fewer_over = functools.cache(lambda: halved().over if halved else None)

    @functools.cache
    def undivided() -> tuple[Any, Any]:
      other = run_by(layout, whole=True)
      return other.over, other.axis

    def undivided_axis(runs: int, common: Sequence[str]) -> RunAxis:
      return undivided()[1](runs, common)

    axis = _axis(template)
    if divisions and axis:
      # Runs that go at once may differ in their precisions.
      axis = undivided_axis

    def over(federation, population, store) -> Simulation:
      bits = np.asarray(population.spec.bits)
      # Which part runs a client is in the program.
      if divisions and not np.array_equal(bits, precisions):
        return undivided()[0](federation, population, store)
      federation = padding.padded(federation, lengths)
      filled = template.over(federation, population, store)
      of_run = sizes_lib.with_precisions(sizes, ids, bits)

      def fewer() -> Simulation:
        made_over: Any = fewer_over()
        return made_over(federation, population, store)

      return _simulation(filled, of_run, over, fewer if halved else None, axis)

    return _simulation(programs, sizes, over, halved, axis)

  return run_by(
    layout_lib.resolve_layout(
      strategy,
      chunk_size,
      at_once,
      devices=devices,
      platform=jax.default_backend(),
      clients=0 if backend.streams else federation.num_clients,
      estimate=sizes.estimate,
      limit=sizes_lib.memory_limit(),
      # A batched soft quantizer gains nothing: its loops run for all if for
      # one. Without the bytes of a step, who is small is not known.
      batches=step_bytes is not None and _full_precision(population),
    )
  )


def _full_precision(population: Population) -> bool:
  """Whether no client is quantized."""
  bits = np.asarray(population.spec.bits)
  return bool(np.all(bits >= codebook_lib.FULL_PRECISION))


def _axis(programs: Backend) -> Callable[[int, Sequence[str]], RunAxis] | None:
  """How to run several runs at once."""
  layout = programs.layout
  if not isinstance(programs, Resident) or layout.mesh or layout.on_host:
    return None
  return functools.partial(RunAxis, programs)


def _simulation(
  programs: Backend,
  sizes: Sizes,
  over: Callable[..., Simulation],
  halved: Callable[[], Simulation] | None,
  axis: Callable[[int, Sequence[str]], RunAxis] | None,
) -> Simulation:
  """The public face of a backend."""
  layout, method = programs.layout, programs.engine.method
  data_bytes = programs.data_bytes()
  estimate = sizes.estimate._replace(data=data_bytes)
  slots = sum(programs.slots.values()) // layout.devices
  return Simulation(
    init=programs.init,
    run_rounds=programs.run_rounds,
    run_round=lambda state: programs.run_rounds(state, 1),
    evaluate=programs.evaluate,
    measure=programs.measure,
    primary_models=programs.primary_models,
    begin_finetune=programs.begin_finetune,
    export=programs.export,
    restore=programs.restore,
    kept=programs.kept,
    shapes=programs.shapes,
    bytes_down=sizes.down,
    bytes_up=sizes.up,
    traffic=functools.partial(sizes_lib.traffic, sizes),
    empty_messages=sizes.empty,
    gradients=method.gradients,
    memory=estimate.total(slots, layout.chunk_size),
    program=programs.main,
    compile_seconds=programs.compile_seconds,
    layout=layout,
    over=over,
    data=programs.data,
    axis=axis,
    halved=halved,
    primary_variant=method.primary_variant,
    state_bytes=sizes.state,
    data_bytes=data_bytes,
  )
