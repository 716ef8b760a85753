"""The programs that runs of a comparison share."""

import pathlib
import warnings
from collections.abc import Callable, Collection, Sequence

from quped_jax.experiment import many
from quped_jax.experiment.callbacks.base import Callback, of_runs
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.divergence_reports import DivergenceError
from quped_jax.experiment.metrics import Writer
from quped_jax.experiment.run import brief
from quped_jax.experiment.settings import Settings
from quped_jax.experiment.telling import telling_of
from quped_jax.files.checkpoint import Checkpoints


class SharedPrograms:
  """Runs those of a list, each once, in any order.

  Runs that differ in data and in numbers alone go through the same programs,
  see `many`, which are kept until the last of them begins. Where they go all at
  once, the first of them that is asked for runs the others too, and nothing is
  left to do when these are asked for. All are built to find mistakes early,
  such as settings alone do not show: a method that needs a public set, say, or
  does not run with quantized clients. Nothing is compiled before the first
  begins.

  Args:
    runs: what is to do.
    sources: data and identities of the runs.
    anew: folders of runs that do not go on from what is there, even if they run
      beside another that is asked for.
    run_strategy: see `many.run_groups`.
    callbacks: `run -> callbacks` makes those of a run; by default none.

  Raises:
    ValueError: settings that do not fit each other, the data or the memory.
  """

  def __init__(
    self,
    runs: Sequence[Run],
    sources: many.Sources,
    *,
    anew: Collection[pathlib.Path] = (),
    run_strategy: str = "auto",
    callbacks: Callable[[Run], Sequence[Callback]] | None = None,
  ):
    planned = [_plan(run, sources) for run in runs]
    folders = [run.folder for run in runs]
    self._sources, self._anew = sources, anew
    self._run_strategy = run_strategy
    # Those that ran beside others, and how the ones of them that diverged did.
    self._done: dict[pathlib.Path, DivergenceError | None] = {}
    self._after = {run.folder: run.after for run in runs}
    called = of_runs(callbacks, runs)
    self._callbacks = dict(zip(folders, called, strict=True))
    self._planned = dict(zip(folders, planned, strict=True))
    self._groups: dict[pathlib.Path, many.Group] = {}
    for members in many.groups(planned):
      first = runs[members[0]]
      try:
        group = many.Group(
          [planned[i] for i in members],
          first.folder,
          model_given=sources.model is not None,
        )
      except ValueError as error:
        raise ValueError(f"{first.row.name}: {error}") from error
      self._groups |= {folders[i]: group for i in members}

  @property
  def done(self) -> Collection[pathlib.Path]:
    """Folders of runs that ran beside others, and were not asked for yet."""
    return self._done.keys()

  def __call__(
    self,
    settings: Settings,
    folder: pathlib.Path,
    *,
    display: Display | None = None,
    resume: bool = True,
  ) -> None:
    """Runs one, or finds that it has run beside another.

    Args:
      settings: those that the run was given with.
      folder: its own, by which it is known.
      display: see `run`.
      resume: likewise.

    Raises:
      Exception: what `run` raises. The others may be run all the same.
    """
    if folder not in self._done:
      assert self._planned[folder].settings == settings
      try:
        self._run(folder, display, resume)
      except KeyboardInterrupt as error:
        raise brief(error) from None
    error = self._done.pop(folder)
    if error is not None:
      raise error

  def _run(
    self, folder: pathlib.Path, display: Display | None, resume: bool
  ) -> None:
    """Runs one, and those that go at once with it."""
    group = self._groups[folder]
    folders = [folder]
    if group.at_once(self._run_strategy):
      others = (x for x, own in self._groups.items() if own is group)
      folders += [other for other in others if other != folder]
    runs = [self._planned[own] for own in folders]
    resumes = [resume, *(own not in self._anew for own in folders[1:])]
    for own, run, goes_on in zip(folders, runs, resumes, strict=True):
      after = self._after[own]
      if after is not None and goes_on:
        identity = self._sources.identity(after.settings)
        _go_on(group, run, own, Checkpoints(after.folder, identity))
    tellings = [telling_of(self._callbacks[own], display) for own in folders]
    self._forget(folder)
    if len(runs) == 1:
      group.run(runs[0], folder, telling=tellings[0], resume=resume)
      self._done[folder] = None
      return
    for n, found in group.run_all(
      runs, folders, tellings, display, resume=resumes
    ):
      diverged = isinstance(found, DivergenceError)
      self._done[folders[n]] = found if diverged else None
      self._forget(folders[n])

  def _forget(self, folder: pathlib.Path) -> None:
    """With the last of a group's runs its programs go."""
    for known in (self._planned, self._groups, self._after):
      known.pop(folder, None)


def _go_on(
  group: many.Group, run: many.Planned, folder: pathlib.Path, there: Checkpoints
) -> None:
  """Lets a run go on from the last checkpoint of one with fewer rounds.

  If there is none that is whole, it begins anew, and its results are the same.
  """
  here = Checkpoints(folder, run.identity, run.settings.keep_checkpoints)
  if here or (folder / "summary.json").exists():
    return
  simulation = group.assemble(run, folder).simulation
  try:
    saved = there.latest(
      lambda progress: simulation.shapes(progress["finetuning"]),
      simulation.kept,
    )
  except ValueError as error:
    warnings.warn(f"{folder.name} begins anew: {error}", stacklevel=3)
    return
  if saved is not None:
    # First whose it is.
    Writer(folder).start(run.settings.to_dict(), run.identity)
    here.save(saved.round, saved.state, saved.progress)


def _plan(run: Run, sources: many.Sources) -> many.Planned:
  # The same for all rows: an error in it is not the row's.
  sources.federation(run.settings)
  try:
    return sources.plan(run.settings)
  except ValueError as error:
    raise ValueError(f"{run.row.name}: {error}") from error
