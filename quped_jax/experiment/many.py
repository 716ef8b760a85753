"""Many runs through few programs.

Runs that differ in data and in numbers alone, see `swept`, form a group: the
same compiled programs serve all of them, one after the other or all at once.
Each is the run that its settings alone give, in its own folder, with the same
files.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from quped_jax import checks
from quped_jax import models as models_lib
from quped_jax.data.dataset import Dataset
from quped_jax.data.federation import Federation
from quped_jax.experiment import batches
from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import parts as parts_lib
from quped_jax.experiment.assemble import (
  Assembly,
  assemble_parts,
  programs_of,
)
from quped_jax.experiment.build_clients import build_clients
from quped_jax.experiment.build_data import build_federation, load
from quped_jax.experiment.callbacks.base import Callback
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.job import Job
from quped_jax.experiment.own_functions import NOTHING, OwnFunctions
from quped_jax.experiment.parts import Parts
from quped_jax.experiment.result import Result
from quped_jax.experiment.run import Request, opened, run_made
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.telling import Telling, telling_of
from quped_jax.methods import api
from quped_jax.simulation import memory, run_axis

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
    own: a user's own loss and metrics, of all runs.

  Raises:
    ValueError: a federation that is none.
  """

  def __init__(
    self,
    federation: Federation | None = None,
    model: models_lib.Model | None = None,
    own: OwnFunctions = NOTHING,
  ):
    if federation is not None:
      checks.instance("federation", federation, Federation, "make_federation")
    self._given, self._model, self._own = federation, model, own
    self._datasets: dict[Any, Dataset | None] = {}
    self._federations: dict[Any, Federation] = {}
    self._of_data: dict[int, identity_lib.Identity] = {}
    self._of_networks: dict[Any, identity_lib.Identity] = {}

  @property
  def given(self) -> Federation | None:
    """The federation that was given for all runs."""
    return self._given

  @property
  def model(self) -> models_lib.Model | None:
    """The network that was given for all runs."""
    return self._model

  @property
  def own(self) -> OwnFunctions:
    """A user's own loss and metrics, of all runs."""
    return self._own

  def plan(self, settings: Settings) -> Planned:
    """Makes the parts of a run; compiles nothing.

    Raises:
      ValueError: settings that do not fit each other or the data.
    """
    parts = parts_lib.make_parts(
      settings,
      federation=self.federation(settings),
      model=self._model,
      own=self._own,
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
      self._of_data[id(federation)] = identity_lib.of_data(
        federation
      ) | identity_lib.of_functions(self._own, federation)
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
    self._axis = made.simulation.axis
    self._common = run_axis.common_parts(federations)
    common = [getattr(first.federation, name) for name in self._common]
    self._memory = run_axis.Memory(
      made.simulation.memory, memory.nbytes(common)
    )

  def at_once(self, strategy: str = "auto") -> bool:
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
    telling: Telling,
    resume: bool = True,
  ) -> Result:
    """Runs one; the first compiles.

    Args:
      run: one of the group's.
      folder: where its results go; None for nowhere.
      telling: tells its callbacks.
      resume: see `run`.

    Raises:
      Exception: what `run` raises. The others may be run all the same.
    """
    make = functools.partial(self.assemble, run, folder)
    return run_made(self._request(run, folder, make, telling, resume))

  def run_all(
    self,
    runs: Sequence[Planned],
    folders: Sequence[str | os.PathLike | None],
    tellings: Sequence[Telling],
    display: Display | None = None,
    *,
    resume: Sequence[bool] | None = None,
  ) -> batches.Outcomes:
    """Runs some at once, as many as memory has room for, then the next.

    Args:
      runs: of the group's; `at_once` says whether they can go so.
      folders: where the results of each go; None for nowhere.
      tellings: what tells the callbacks of each.
      display: shows the progress of all.
      resume: of each, see `run`; by default True.

    Yields:
      See `batches.run_all`.

    Raises:
      Exception: likewise.
    """
    axis, common = self._axis, self._common
    assert axis is not None
    waiting = [
      batches.Waiting(
        run.settings,
        functools.partial(self._open, run, folder, telling),
        functools.partial(self._run, run, folder, telling),
        telling,
        again,
      )
      for run, folder, telling, again in zip(
        runs, folders, tellings, resume or [True] * len(runs), strict=True
      )
    ]
    return batches.run_all(
      waiting, lambda count: axis(count, common), self._memory, display
    )

  def _open(self, run, folder, telling, held, of_batch, resume) -> Job:
    def make():
      return of_batch(self.assemble(run, folder))

    return opened(held, self._request(run, folder, make, telling, resume))

  def _request(self, run, folder, make, telling, resume) -> Request:
    return Request(
      # Runs that are many are drawn together, if at all.
      dataclasses.replace(run.settings, figures=False),
      folder,
      make,
      telling,
      identity=run.identity,
      resume=resume,
      model_given=self._model_given,
    )

  def _run(self, run, folder, telling, resume) -> Result:
    return self.run(run, folder, telling=telling, resume=resume)


def run_groups(
  runs: Sequence[Planned],
  folders: Sequence[pathlib.Path | None],
  displays: Sequence[Display | None],
  callbacks: Sequence[Sequence[Callback]] | None = None,
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
    callbacks: those of each; by default none.
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
  at_once = [group.at_once(run_strategy) for group in made]
  tellings = [
    telling_of(own, display)
    for own, display in zip(
      callbacks or [()] * len(runs), displays, strict=True
    )
  ]
  for members, vmapped in zip(by_group, at_once, strict=True):
    # Its programs are gone with it.
    group = made.pop(0)
    if vmapped and len(members) > 1:
      for n, found in group.run_all(
        [runs[i] for i in members],
        [folders[i] for i in members],
        [tellings[i] for i in members],
        displays[members[0]],
        resume=[resume] * len(members),
      ):
        yield members[n], found
      continue
    for i in members:
      try:
        found = group.run(
          runs[i], folders[i], telling=tellings[i], resume=resume
        )
      except DivergenceError as error:
        yield i, error
      else:
        yield i, found
