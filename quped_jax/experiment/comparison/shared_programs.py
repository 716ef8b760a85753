"""The programs that runs of a comparison share."""

import pathlib
import warnings
from collections.abc import Sequence

from quped_jax.experiment import many
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.metrics import Display, Writer
from quped_jax.experiment.run import Result, brief
from quped_jax.experiment.settings import Settings
from quped_jax.files.checkpoint import Checkpoints


class SharedPrograms:
  """Runs those of a list, each once, in any order.

  Runs that differ in data and in numbers alone go through the same programs,
  see `many`, which are kept until the last of them begins. All are built to
  find mistakes early, such as settings alone do not show: a method that needs a
  public set, say, or does not run with quantized clients. Nothing is compiled
  before the first begins.

  Args:
    runs: what is to do.
    sources: data and identities of the runs.

  Raises:
    ValueError: settings that do not fit each other, the data or the memory.
  """

  def __init__(self, runs: Sequence[Run], sources: many.Sources):
    planned = [_plan(run, sources) for run in runs]
    folders = [run.folder for run in runs]
    self._sources = sources
    self._after = {run.folder: run.after for run in runs}
    self._planned = dict(zip(folders, planned, strict=True))
    self._groups: dict[pathlib.Path, many.Group] = {}
    for members in many.groups(planned):
      first = runs[members[0]]
      try:
        group = many.Group([planned[i] for i in members], first.folder)
      except ValueError as error:
        raise ValueError(f"{first.row.name}: {error}") from error
      self._groups |= {folders[i]: group for i in members}

  def __call__(
    self,
    settings: Settings,
    folder: pathlib.Path,
    *,
    display: Display | None = None,
    resume: bool = True,
  ) -> Result:
    """Runs one.

    Args:
      settings: those that the run was given with.
      folder: its own, by which it is known.
      display: see `run`.
      resume: likewise.

    Raises:
      Exception: what `run` raises. The others may be run all the same.
    """
    # With the last of a group's runs its programs go.
    run, group = self._planned.pop(folder), self._groups.pop(folder)
    assert run.settings == settings
    after = self._after.pop(folder)
    if after is not None and resume:
      own = self._sources.identity(after.settings)
      _go_on(group, run, folder, Checkpoints(after.folder, own))
    try:
      return group.run(run, folder, display=display, resume=resume)
    except KeyboardInterrupt as error:
      raise brief(error) from None


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
