"""What a simulation offers: the compiled programs of a federation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quped_jax.data.federation import Federation
from quped_jax.short_repr import short_repr
from quped_jax.simulation.client_tables import Measures, Scores
from quped_jax.simulation.layout import Layout
from quped_jax.simulation.program import Program
from quped_jax.simulation.programs import ClientModel
from quped_jax.simulation.run_axis import RunAxis
from quped_jax.simulation.state import Population, SimulationState
from quped_jax.simulation.store import Store


class Simulation(NamedTuple):
  """The compiled programs of one federation.

  Attributes:
    init: `seed -> SimulationState`.
    run_rounds: `(state, rounds) -> (state, metrics of the last)`, at least
      one round; takes the state's buffers over. The rounds go in one dispatch,
      whatever their number, unless the host loops over chunks of clients, or
      moves them. Among the metrics are `participants`, the number of clients
      that were heard, and `diverged`, the number of those whose round was
      undone; the others are means over the participants, NaN if there are none.
      The very first round is first run once for the norms of messages alone.
    run_round: `state -> (state, metrics)`, one round.
    evaluate: `state -> {split: {variant: score [clients]}}`, NaN where a
      client has no such variant or no such samples.
    measure: `state -> (scores, {split: {measure: {variant: Measured}}})`, what
      `evaluate` gives, and the measures that were asked for, of the same
      outputs; {} of none.
    primary_models: `state -> iterator of ClientModel`, in no particular order;
      few models are computed at a time. With several processes, each has to
      exhaust it.
    begin_finetune: `state -> state`, begins the fine-tuning phase; takes over
      the buffers of the clients.
    export: `state -> state` of numpy arrays, with as many slots as clients in
      each cohort and in their order, and the key as numbers: the same however
      and wherever clients are run. With several processes, of this one's
      clients alone; -1 is nobody.
    restore: `state -> state`, the inverse; takes over the arrays. With several
      processes the clients may be all, or those in `kept`.
    kept: {cohort: ids of the clients whose states this process keeps}: all, if
      there is no other process.
    shapes: `finetuning -> state` of shapes and types: those of an export, with
      the clients of all processes.
    bytes_down: bytes that a client receives per round, on average.
    bytes_up: bytes that a client sends per round, likewise.
    traffic: `(cohort, bits) -> (bytes down, bytes up)` of such a client.
    empty_messages: cohorts whose messages hold nothing, though the method
      does not say so: theirs is neither `()` nor None.
    gradients: gradient evaluations of a client per round, see
      `FederatedMethod`.
    memory: bytes that a round takes on each device, by the formula of
      `quped_jax.simulation.memory`.
    program: the compiled rounds, or a chunk or block of their clients, with its
      costs.
    compile_seconds: `() -> float`, spent on compiling all programs so far.
    layout: how clients are run.
    over: `(federation, population, store) -> Simulation`, the same compiled
      programs for another run: one of the `others` that they were made for, and
      what its clients bring. The store is where their states are kept.
    data: the federation and the population, on the devices.
    axis: `(runs, common) -> RunAxis`, programs that run so many runs at once,
      see there; None where one run has several devices, or a loop of the
      host's.
    halved: `() -> Simulation`, the same with half as many clients at once, for
      when memory has no room for so many; None if it is not ours to choose, or
      if they run one at a time. Both take each other's states.
    primary_variant: the variant that comparisons report.
    state_bytes: of the state of all clients.
    data_bytes: of samples and tables on each device.

  Examples:
    `build` makes one from settings; nothing is compiled before it is needed.

    >>> settings = qj.Settings(method="local", clients=4, bits=(32,), steps=1)
    >>> simulation = qj.build(settings).simulation
    >>> simulation.primary_variant
    'quantized'
    >>> simulation.bytes_up  # of local training
    0.0
  """

  init: Callable[[int], SimulationState]
  run_rounds: Callable[[SimulationState, int], tuple[SimulationState, Any]]
  run_round: Callable[[SimulationState], tuple[SimulationState, Any]]
  evaluate: Callable[[SimulationState], Scores]
  measure: Callable[[SimulationState], tuple[Scores, Measures]]
  primary_models: Callable[[SimulationState], Iterator[ClientModel]]
  begin_finetune: Callable[[SimulationState], SimulationState]
  export: Callable[[SimulationState], SimulationState]
  restore: Callable[[SimulationState], SimulationState]
  kept: Mapping[str, np.ndarray]
  shapes: Callable[[bool], SimulationState]
  bytes_down: float
  bytes_up: float
  traffic: Callable[[str, int], tuple[float, float]]
  empty_messages: tuple[str, ...]
  gradients: float | None
  memory: int
  program: Program
  compile_seconds: Callable[[], float]
  layout: Layout
  over: Callable[[Federation, Population, Store], Simulation]
  data: tuple[Federation, Population]
  axis: Callable[[int, Sequence[str]], RunAxis] | None
  halved: Callable[[], Simulation] | None
  primary_variant: str
  state_bytes: int
  data_bytes: int

  __repr__ = short_repr
