"""Many runs through few programs.

Runs that differ in data and in numbers alone, see `swept`, form a group: the
same compiled programs serve all of them, one after the other or all at once.
Each is the run that its settings alone give, in its own folder, with the same
files.
"""

import collections
import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from quped_jax import checks
from quped_jax import models as models_lib
from quped_jax.data.dataset import Dataset
from quped_jax.data.federation import Federation
from quped_jax.experiment import dispatch, no_room, together
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import parts as parts_lib
from quped_jax.experiment import run as run_lib
from quped_jax.experiment.assemble import (
  Assembly,
  assemble_parts,
  programs_of,
)
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_data import build_federation, load
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.metrics import Display
from quped_jax.experiment.parts import Parts
from quped_jax.experiment.run import Result, run_made
from quped_jax.experiment.settings import Settings
from quped_jax.methods import api
from quped_jax.simulation import memory, run_axis, sizes

STRATEGIES = ("auto", "vmap", "one")


class Planned(NamedTuple):
  """A run that is to do, with all its parts.

  Attributes:
    settings: as they were given.
    parts: what it is made of.
    identity: what its results follow from.
  """

  settings: Settings
  parts: Parts
  identity: identity_lib.Identity


class Sources:
  """Data and identities of runs; what several runs share is made once.

  Args:
    federation: that of all runs, instead of those that settings describe.
    model: the network of all clients of all runs, likewise.
  """

  def __init__(
    self,
    federation: Federation | None = None,
    model: models_lib.Model | None = None,
  ):
    self._given, self._model = federation, model
    self._datasets: dict[Any, Dataset | None] = {}
    self._federations: dict[Any, Federation] = {}
    self._of_data: dict[int, identity_lib.Identity] = {}
    self._of_networks: dict[Any, identity_lib.Identity] = {}

  def plan(self, settings: Settings) -> Planned:
    """Makes the parts of a run; compiles nothing.

    Raises:
      ValueError: settings that do not fit each other or the data.
    """
    parts = parts_lib.make_parts(
      settings, federation=self.federation(settings), model=self._model
    )
    own = self.identity(settings, parts.clients.models)
    return Planned(settings, parts, own)

  def federation(self, settings: Settings) -> Federation:
    """The data of a run.

    Raises:
      ValueError: a partition that the data does not allow.
    """
    if self._given is not None:
      return self._given
    names = identity_lib.DATA_FIELDS
    key = identity_lib.fields_of(settings, names)
    if key not in self._federations:
      source = settings.dataset, settings.data_dir
      if source not in self._datasets:
        self._datasets[source] = load(settings)
      self._federations[key] = build_federation(
        settings, self._datasets[source]
      )
    return self._federations[key]

  def identity(
    self, settings: Settings, models: api.Models | None = None
  ) -> identity_lib.Identity:
    """The identity of a run; compiles nothing.

    Args:
      settings: of the run.
      models: its networks, if they are made.

    Raises:
      ValueError: settings that do not fit each other or the data.
    """
    federation = self.federation(settings)
    if id(federation) not in self._of_data:
      self._of_data[id(federation)] = identity_lib.of_data(federation)
    # Budgets are drawn, and with them networks chosen.
    seed = settings.seed if settings.budget_bytes else None
    names = identity_lib.NETWORK_FIELDS
    key = identity_lib.fields_of(settings, names), seed
    if key not in self._of_networks:
      models = models or build_clients(settings, federation, self._model).models
      self._of_networks[key] = identity_lib.of_networks(models, federation)
    return identity_lib.join(
      settings,
      self._of_data[id(federation)],
      self._of_networks[key],
      identity_lib.of_trace(settings),
    )


def groups(runs: Sequence[Planned]) -> list[list[int]]:
  """The runs by the programs that serve them, as indices, in order."""
  found: dict[Any, list[int]] = {}
  for index, run in enumerate(runs):
    found.setdefault(parts_lib.program_of(run.parts), []).append(index)
  return list(found.values())


class Group:
  """Runs of one group, which go through the same programs.

  Nothing is compiled before the first of them runs.

  Args:
    runs: all of them; their tables of samples get room for the largest.
    folder: where results of the first go; None for nowhere.
    model_given: whether their network was given as an object.

  Raises:
    ValueError: settings that do not fit each other, or the memory.
  """

  def __init__(
    self,
    runs: Sequence[Planned],
    folder: str | os.PathLike | None = None,
    *,
    model_given: bool = False,
  ):
    self._model_given = model_given
    first = runs[0].parts
    others = {id(run.parts.federation): run.parts.federation for run in runs}
    del others[id(first.federation)]
    federations = [first.federation, *others.values()]
    made = assemble_parts(first, folder, federations[1:])
    self._over = programs_of(made)
    self._axis, self._memory = made.simulation.axis, made.simulation.memory
    self._common = run_axis.common_parts(federations)
    self._common_bytes = memory.nbytes(
      [getattr(first, name) for name in self._common]
    )

  def together(self, strategy: str = "auto") -> bool:
    """Whether the runs go all at once, as far as there is memory.

    Args:
      strategy: see `run_groups`.

    Raises:
      ValueError: they were to, and cannot.
    """
    checks.choice("run_strategy", strategy, STRATEGIES)
    if strategy == "vmap" and self._axis is None:
      raise ValueError(
        "run_strategy='vmap': must be 'one' or 'auto' where clients are "
        "divided over several devices, or client_state is not 'device', or "
        "strategy is 'dispatch'"
      )
    if strategy == "auto":
      return self._axis is not None and jax.default_backend() != "cpu"
    return strategy == "vmap"

  def assemble(
    self, run: Planned, folder: str | os.PathLike | None
  ) -> Assembly:
    """Makes one of them, of the group's programs; compiles nothing.

    Args:
      run: one of the group's.
      folder: where its results go; None for nowhere.
    """
    return self._over(run.parts, folder)

  def run(
    self,
    run: Planned,
    folder: str | os.PathLike | None,
    *,
    display: Display | None = None,
    resume: bool = True,
  ) -> Result:
    """Runs one; the first compiles.

    Args:
      run: one of the group's.
      folder: where its results go; None for nowhere.
      display: see `run`.
      resume: likewise.

    Raises:
      Exception: what `run` raises. The others may be run all the same.
    """
    return run_made(
      run.settings,
      folder,
      functools.partial(self.assemble, run, folder),
      identity=run.identity,
      display=display,
      resume=resume,
      model_given=self._model_given,
    )

  def run_all(
    self,
    runs: Sequence[Planned],
    folders: Sequence[str | os.PathLike | None],
    display: Display | None = None,
    *,
    resume: bool = True,
  ) -> Iterator[tuple[int, Result | DivergenceError]]:
    """Runs some at once, as many as memory has room for, then the next.

    Each has the files and checkpoints that it has by itself.

    Args:
      runs: of the group's.
      folders: where the results of each go; None for nowhere.
      display: shows the progress of all.
      resume: see `run`.

    Yields:
      See `run_groups`.

    Raises:
      Exception: what `run` raises. Those that were not yielded may be run
        again, and go on from their checkpoints.
    """
    assert self._axis is not None  # See `together`.
    todo = sorted(
      range(len(runs)), key=lambda i: repr(together.stops_of(runs[i].settings))
    )
    begun: set[int] = set()
    axis = None
    size = self._size([run.settings for run in runs])
    while todo:
      stops = together.stops_of(runs[todo[0]].settings)
      batch = [i for i in todo if together.stops_of(runs[i].settings) == stops][
        :size
      ]
      shown = (display or Display()).together(f"{len(batch)} runs at once")
      try:
        if size == 1:
          results = self._run_one(
            batch[0], runs, folders, display, resume or batch[0] in begun
          )
        else:
          axis = axis or self._axis(size, self._common)
          opened = [
            (i, runs[i], folders[i], resume or i in begun) for i in batch
          ]
          results = self._run_batch(opened, axis, shown)
        begun.update(batch)
        for i, result in results:
          todo.remove(i)
          yield i, result
        continue
      except jax.errors.JaxRuntimeError as error:
        if size == 1 or not no_room.is_meant(error):
          raise
      # Not in the `except`, whose error refers to all arrays.
      shown.note(f"memory had no room for {size} runs at once")
      axis, results, size = None, None, -(-size // 2)

  def _size(self, settings: Sequence[Settings]) -> int:
    """How many runs go at once."""
    limit = sizes.memory_limit() or sizes.host_memory()
    alike = collections.Counter(map(together.stops_of, settings))
    return run_axis.runs_at_once(
      max(alike.values()), self._memory, self._common_bytes, limit
    )

  def _run_one(self, i, runs, folders, display, resume):
    try:
      yield i, self.run(runs[i], folders[i], display=display, resume=resume)
    except DivergenceError as error:
      yield i, error

  def _run_batch(
    self,
    batch: Sequence[tuple[int, Planned, str | os.PathLike | None, bool]],
    axis: run_axis.RunAxis,
    display: Display,
  ) -> Iterator[tuple[int, Result | DivergenceError]]:
    """Runs that stop after the same rounds, at once where they begin alike."""
    began, compiled = time.perf_counter(), axis.compile_seconds()

    def compile_seconds():
      return (axis.compile_seconds() - compiled) / len(batch)

    with contextlib.ExitStack() as held:
      alike: dict[Hashable, list[tuple[int, together.Member]]] = {}
      at_once = 0
      for i, run, folder, resume in batch:
        job = run_lib.opened(
          held,
          run.settings,
          folder,
          functools.partial(self._made, run, folder, axis, compile_seconds),
          identity=run.identity,
          display=display,
          resume=resume,
          model_given=self._model_given,
        )
        if not at_once:
          run_lib.say_what_is_quantized(job)
          at_once = dispatch.rounds_at_once(job.made)
          if not run.settings.rounds_per_dispatch:
            at_once = max(at_once // len(batch), 1)
        begin = run_lib.restore(job, None, resume=resume)
        member = together.Member(job, *begin)
        alike.setdefault(together.begins_as(member), []).append((i, member))
        del begin, member
      while alike:
        places, members = zip(*alike.pop(next(iter(alike))), strict=True)
        for n, end in together.go(members, axis, display, at_once):
          if isinstance(end, DivergenceError):
            yield places[n], end
          else:
            yield (
              places[n],
              run_lib.finish(end.job, end.end, end.state(), began, len(batch)),
            )

  def _made(self, run, folder, axis, compile_seconds) -> Assembly:
    """A run, with what it costs as one of several."""
    made = self._over(run.parts, folder)
    memory_of_all = run_axis.memory(
      made.simulation.memory, self._common_bytes, axis.runs
    )
    simulation = made.simulation._replace(
      compile_seconds=compile_seconds, program=axis.main, memory=memory_of_all
    )
    return made._replace(simulation=simulation)


def run_groups(
  runs: Sequence[Planned],
  folders: Sequence[pathlib.Path | None],
  displays: Sequence[Display | None],
  *,
  resume: bool = True,
  model_given: bool = False,
  run_strategy: str = "auto",
) -> Iterator[tuple[int, Result | DivergenceError]]:
  """Runs all, group by group: yields the index of each and what came of it.

  Args:
    runs: what is to do.
    folders: where the results of each go; None for nowhere.
    displays: what shows the progress of each; that of the first shows the
      progress of all that go at once.
    resume: see `run`.
    model_given: whether their network was given as an object.
    run_strategy: "vmap" for all runs of a group at once, as far as there is
      memory; "one" for one after the other; "auto" for "vmap" on accelerators,
      where clients are on one device, and else "one".

  Yields:
    The result, or the error with which the run ended because it diverged.

  Raises:
    ValueError: settings that do not fit each other or the memory, before
      anything is compiled; runs that cannot go at once and were to.
    Exception: what `run` raises otherwise.
  """
  by_group = groups(runs)
  made = [
    Group([runs[i] for i in own], folders[own[0]], model_given=model_given)
    for own in by_group
  ]
  at_once = [group.together(run_strategy) for group in made]
  for members, vmapped in zip(by_group, at_once, strict=True):
    # Its programs are gone with it.
    group = made.pop(0)
    if vmapped and len(members) > 1:
      for n, found in group.run_all(
        [runs[i] for i in members],
        [folders[i] for i in members],
        displays[members[0]],
        resume=resume,
      ):
        yield members[n], found
      continue
    for i in members:
      try:
        found = group.run(
          runs[i], folders[i], display=displays[i], resume=resume
        )
      except DivergenceError as error:
        yield i, error
      else:
        yield i, found
