"""What callbacks that write to trackers have in common."""

import dataclasses
import importlib
import math
import os
import pathlib
from typing import Any

from quped_jax import paths
from quped_jax.experiment.callbacks.base import Evaluation, RunEnd, RunStart
from quped_jax.experiment.changes import flatten
from quped_jax.experiment.settings import Settings


def needed(module: str, extra: str, tracker: str) -> Any:
  """Imports a module of an optional package.

  Raises:
    ImportError: it is not installed; says what to install.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise ImportError(
      f"{tracker} needs the package {error.name!r}, which is not installed: "
      f"pip install 'quped_jax[{extra}]'"
    ) from error


def scalars(evaluation: Evaluation) -> dict[str, float]:
  """The numbers of an evaluation by the names under which trackers show them.

  Scores keep their names, such as "test/quantized"; metrics of training are
  "train/loss" and so on, and what a run costs is "cost/seconds_per_round",
  "cost/bytes_up" and "cost/bytes_down". What is not finite is left out.
  """
  named = {
    name if "/" in name else f"train/{name}": value
    for name, value in evaluation.metrics.items()
    if name != "round"
  }
  for name in ("seconds_per_round", "bytes_up", "bytes_down"):
    named[f"cost/{name}"] = getattr(evaluation, name)
  return {name: x for name, x in named.items() if math.isfinite(x)}


def config(settings: Settings) -> dict[str, Any]:
  """A run's settings, with the options of its method in a dict of theirs."""
  own = dataclasses.asdict(settings)
  del own["method_options"]
  return {**own, settings.method: dataclasses.asdict(settings.options())}


def results(end: RunEnd) -> dict[str, float]:
  """The finite numbers of a run's summary, such as "accuracy.global.mean".

  Those by type of client are left out.
  """
  summary = {
    name: value
    for name, value in (end.summary or {}).items()
    if name != "client_types"
  }
  return {
    name: float(value)
    for name, value in flatten(summary).items()
    if isinstance(value, (int, float)) and math.isfinite(value)
  }


def name_of(start: RunStart) -> str:
  """What a tracker calls a run: the name of its folder, or its method."""
  if start.workdir is not None and start.workdir.name:
    return start.workdir.name
  return start.settings.method


def place(
  field: str, given: str | os.PathLike | None, start: RunStart, name: str
) -> pathlib.Path:
  """Where a callback writes: as a user said, or in the workdir of the run.

  Args:
    field: what errors call it.
    given: what the user said; None for the workdir.
    start: of the run.
    name: of the file or folder in the workdir.

  Raises:
    ValueError: there is neither.
  """
  if given is not None:
    return paths.given(field, given)
  if start.workdir is None:
    raise ValueError(f"{field}=None: must be given for a run without a workdir")
  return start.workdir / name


class Kept:
  """By what a tracker knows a run, kept in its workdir for when it goes on.

  Args:
    start: of the run.
    name: of the file.
  """

  def __init__(self, start: RunStart, name: str):
    self._path = None if start.workdir is None else start.workdir / name
    self._goes_on = start.round > 0

  def read(self) -> str | None:
    """The id of the run that goes on; None of a new one."""
    if self._path is None or not self._goes_on or not self._path.is_file():
      return None
    return self._path.read_text().strip() or None

  def write(self, run_id: str) -> None:
    """Keeps the id."""
    if self._path is not None:
      paths.replace_text(self._path, f"{run_id}\n")
