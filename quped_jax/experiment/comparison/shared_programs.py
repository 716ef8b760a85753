"""The programs that runs of a comparison share."""

import pathlib
from collections.abc import Sequence

from quped_jax.experiment import many
from quped_jax.experiment.comparison.plan import Run
from quped_jax.experiment.metrics import Display
from quped_jax.experiment.run import Result, brief
from quped_jax.experiment.settings import Settings


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
    try:
      return group.run(run, folder, display=display, resume=resume)
    except KeyboardInterrupt as error:
      raise brief(error) from None


def _plan(run: Run, sources: many.Sources) -> many.Planned:
  # The same for all rows: an error in it is not the row's.
  sources.federation(run.settings)
  try:
    return sources.plan(run.settings)
  except ValueError as error:
    raise ValueError(f"{run.row.name}: {error}") from error
