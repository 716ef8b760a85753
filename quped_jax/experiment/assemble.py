"""From settings to a simulation: data, clients, method, and their programs."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from quped_jax import checks, paths
from quped_jax import models as models_lib
from quped_jax.data.federation import Federation
from quped_jax.experiment import client_shapes, own_functions
from quped_jax.experiment import client_types as client_types_lib
from quped_jax.experiment.build_measures import build_measures
from quped_jax.experiment.parts import Parts, make_parts
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.training import make_schedule
from quped_jax.methods import api
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.short_repr import short_repr
from quped_jax.simulation import memory as memory_lib
from quped_jax.simulation import sizes
from quped_jax.simulation.held_out_clients import (
  NOBODY,
  HeldOutEvaluation,
  make_held_out_evaluation,
)
from quped_jax.simulation.simulation import Simulation, make_simulation
from quped_jax.simulation.state import Population
from quped_jax.simulation.store import Store


class Assembly(NamedTuple):
  """All that a run is made of.

  Attributes:
    settings: all settings, with `steps` as they follow from epochs and budget.
    federation: the data of all clients, held-out clients last.
    models: the networks, by cohort.
    assignment: which type each client is of, held-out clients last.
    population: what each client brings, held-out clients last.
    method: the method, with its wrappers.
    privacy: the guarantee for the shared model; None without one.
    simulation: the programs, for the clients that train.
    evaluate_held_out: `state -> {variant: score [held-out clients]}`.
    own: a user's own loss and metrics.
    halved: `() -> Assembly`, see that of the simulation; None without one.
  """

  settings: Settings
  federation: Federation
  models: api.Models
  assignment: client_types_lib.Assignment
  population: Population
  method: api.FederatedMethod
  privacy: dict[str, Any] | None
  simulation: Simulation
  evaluate_held_out: HeldOutEvaluation
  own: own_functions.OwnFunctions
  halved: Callable[[], Assembly] | None

  __repr__ = short_repr

  @property
  def model(self) -> models_lib.Model:
    """The clients' network; if they have several, one of them."""
    return next(iter(self.models.clients.values()))

  def variants(
    self, cohort: str, client_id: int
  ) -> dict[str, tuple[Any, Any, models_lib.Model]]:
    """Shapes of a client's models: {variant: (params, stats, model)}."""
    networks = {}

    def variants(server, client, data, context):
      found = self.method.variants(server, client, data, context, cohort)
      networks.update({name: model for name, (_, _, model) in found.items()})
      return {name: variant[:2] for name, variant in found.items()}

    shapes = self._of_client(variants, cohort, client_id)
    return {name: (*shapes[name], model) for name, model in networks.items()}

  def traffic(self, cohort: str, client_id: int) -> tuple[Any, Any]:
    """Shapes of what a client receives and sends in a round."""
    method = self.method

    def traffic(server, client, data, context):
      download = method.broadcast(server, context, cohort)
      result = method.client_update(download, client, data, context, cohort)
      return download, result.message

    return self._of_client(traffic, cohort, client_id)

  def _of_client(
    self, fn: Callable[..., Any], cohort: str, client_id: int
  ) -> Any:
    return client_shapes.of_client(
      self.method, self.federation, self.population, fn, cohort, client_id
    )

  def primary_model(self, cohort: str, client_id: int):
    """Shapes of the model that comparisons report: (params, stats, model)."""
    return self.variants(cohort, client_id)[self.method.primary_variant]

  def cohorts(self) -> dict[str, tuple[client_types_lib.Network, np.ndarray]]:
    """Of the clients that train: {cohort: (its network, its clients' ids)}."""
    names = self.assignment.cohort_names()
    trained = self.assignment.first(self.settings.clients).cohorts()
    return {names[n]: (n, ids) for n, ids in trained.items()}

  def stored_bits(self) -> np.ndarray:
    """Precision of the model that each client uses, int32 `[clients]`.

    That model is the primary variant, whose score is reported. All variants
    but "quantized" are of full precision.
    """
    bits = self.assignment.bits[: self.settings.clients]
    if self.method.primary_variant == "quantized":
      return bits
    return np.full_like(bits, codebook_lib.FULL_PRECISION)

  def model_bytes(self) -> np.ndarray:
    """Packed size of each client's model, in bytes, int64 `[clients]`."""
    stored = self.stored_bits()
    sizes = np.zeros(len(stored), np.int64)
    for cohort, (_, members) in self.cohorts().items():
      params, stats, model = self.primary_model(cohort, int(members[0]))
      for bits in np.unique(stored[members]):
        sizes[members[stored[members] == bits]] = client_types_lib.model_bytes(
          params,
          stats,
          model.is_quantized,
          int(bits),
          channelwise=self.settings.granularity == "channel",
        )
    return sizes


def assemble(
  settings: Settings,
  *,
  federation: Federation | None = None,
  model: models_lib.Model | None = None,
  own: own_functions.OwnFunctions = own_functions.NOTHING,
  workdir: str | os.PathLike | None = None,
  others: Sequence[Federation] = (),
) -> Assembly:
  """Makes all that a run of the settings is made of; see `build`.

  Args:
    settings: all settings.
    federation: used instead of the one that the settings describe, if given.
    model: likewise.
    own: a user's own loss and metrics.
    workdir: where clients' states are kept with `client_state="disk"`.
    others: federations of further runs that the programs are to serve, see
      `make_simulation`.
  """
  parts = make_parts(settings, federation=federation, model=model, own=own)
  return assemble_parts(parts, workdir, others)


def assemble_parts(
  parts: Parts,
  workdir: str | os.PathLike | None = None,
  others: Sequence[Federation] = (),
) -> Assembly:
  """Makes all of a run of its parts; see `assemble`.

  Args:
    parts: all but the programs.
    workdir: see `assemble`.
    others: likewise.
  """
  simulation = _build_simulation(parts, workdir, others)
  _check_memory(parts.settings, simulation)
  _check_messages(parts.settings, simulation)
  held_out = functools.partial(_build_held_out_evaluation, parts, others)
  return _join(parts, simulation, held_out(simulation), held_out)


def programs_of(
  made: Assembly,
) -> Callable[[Parts, str | os.PathLike | None], Assembly]:
  """A run's programs, for others: `(parts, workdir) -> Assembly`.

  It traces and compiles nothing, and takes parts with the same `program_of`,
  whose federation was among the `others` when the run was made. It does not
  keep the run's own data.
  """
  simulation_over = made.simulation.over
  evaluate_over = dataclasses.replace(made.evaluate_held_out, data=None).over

  def over(parts: Parts, workdir: str | os.PathLike | None) -> Assembly:
    simulation = simulation_over(
      parts.trained,
      parts.population.first(parts.settings.clients),
      client_store(parts.settings, workdir),
      # Of clients with steps of their own, they follow from the data.
    )._replace(gradients=parts.built.method.gradients)
    held_out = functools.partial(_build_held_out_evaluation, parts, ())
    evaluate = evaluate_over(parts.federation, parts.population)
    return _join(parts, simulation, evaluate, held_out)

  return over


def _join(
  parts: Parts,
  simulation: Simulation,
  evaluate_held_out: HeldOutEvaluation,
  held_out: Callable[[Simulation], HeldOutEvaluation],
) -> Assembly:
  """The parts and the programs; `held_out` makes those of held-out clients."""

  def with_fewer() -> Assembly:
    assert simulation.halved is not None
    fewer = simulation.halved()
    return _join(parts, fewer, held_out(fewer), held_out)

  return Assembly(
    settings=parts.settings,
    federation=parts.federation,
    models=parts.clients.models,
    assignment=parts.clients.assignment,
    population=parts.population,
    method=parts.built.method,
    privacy=parts.privacy,
    simulation=simulation,
    evaluate_held_out=evaluate_held_out,
    own=parts.own,
    halved=None if simulation.halved is None else with_fewer,
  )


def client_store(
  settings: Settings, workdir: str | os.PathLike | None
) -> Store:
  """Where the clients' states are kept.

  Args:
    settings: all settings.
    workdir: files of states are in its folder "clients"; None for nowhere.
  """
  folder = None
  if workdir is not None:
    folder = paths.given("workdir", workdir) / "clients"
  return Store(settings.client_state, folder, settings.clients_per_block)


def batch_shape(
  settings: Settings, federation: Federation
) -> jax.ShapeDtypeStruct:
  """Shape and type of the inputs of a training batch."""
  example = jax.eval_shape(federation.example)
  shape = (settings.batch_size, *example.shape[1:])
  return jax.ShapeDtypeStruct(shape, example.dtype)


def _build_simulation(
  parts: Parts,
  workdir: str | os.PathLike | None,
  others: Sequence[Federation],
) -> Simulation:
  """The programs for the clients that train."""
  settings, built, members = parts.settings, parts.built, parts.members
  return make_simulation(
    built.method,
    parts.trained,
    parts.population.first(settings.clients),
    members,
    schedule=make_schedule(settings),
    strategy=settings.strategy,
    chunk_size=settings.chunk_size,
    devices=settings.devices,
    step_bytes={
      cohort: functools.partial(
        memory_lib.step_bytes,
        parts.clients.models.clients[cohort],
        batch_shape(settings, parts.federation),
        quantized=settings.quantized,
      )
      for cohort in members
    },
    store=client_store(settings, workdir),
    # With privacy, whether one client's message counts must not depend on the
    # messages of others.
    max_message_norm=settings.max_message_norm
    or (checks.LARGEST if settings.dp_clip else 0.0),
    deterministic=settings.deterministic,
    for_levels=built.for_levels if settings.quantized else None,
    of_values=lambda values, most: built.of_values(values, most).engine,
    measures=build_measures(settings, parts.own),
    rounds=settings.rounds,
    others=[other.first(settings.clients) for other in others],
  )


def _check_memory(settings: Settings, simulation: Simulation) -> None:
  """Raises a ValueError if a round would take more than twice the memory.

  What a round takes is an estimate: if it exceeds the memory by less than that,
  it is left to the system to refuse it.
  """
  needed, room = simulation.memory, sizes.memory_limit()
  if room is None:
    room = sizes.host_memory()
    needed *= simulation.layout.devices // jax.process_count()
  if needed > 2 * room:
    raise ValueError(
      f"clients={settings.clients}: must fit into memory, of which there are "
      f"{room / 1e9:.1f} GB; a round takes an estimated {needed / 1e9:.3g} GB. "
      "Smaller networks, a smaller batch_size or chunk_size, or "
      "client_state='disk' take less"
    )


def _check_messages(settings: Settings, simulation: Simulation) -> None:
  """Warns of messages that are empty by mistake, as it seems."""
  if simulation.empty_messages:
    cohorts = ", ".join(simulation.empty_messages)
    warnings.warn(
      f"method={settings.method!r}: the messages of cohort {cohorts} are "
      "empty. Is there a path that matches no parameter? Where clients are to "
      "send nothing, the message must be ()",
      stacklevel=2,
    )


def _build_held_out_evaluation(
  parts: Parts, others: Sequence[Federation], simulation: Simulation
) -> HeldOutEvaluation:
  """Evaluates the clients that take no part in training, if there are any."""
  settings, built = parts.settings, parts.built
  if not settings.held_out_clients:
    return NOBODY
  held_out = {
    cohort: ids[ids >= settings.clients]
    for cohort, ids in parts.clients.assignment.members().items()
  }

  def of_values(values):
    made = built.of_values(values, None)
    # Held-out clients begin before fine-tuning, however far the others are.
    before = dataclasses.replace(made.schedule, finetune_at=0)
    return made.method, made.training, before

  return make_held_out_evaluation(
    built.method,
    built.training,
    parts.federation,
    parts.population,
    {cohort: ids for cohort, ids in held_out.items() if ids.size},
    steps=settings.held_out_client_steps,
    layout=simulation.layout,
    deterministic=settings.deterministic,
    of_values=of_values,
    others=others,
  )
