"""What stays the same from a run's first round to its last."""

import os
from typing import NamedTuple

from quped_jax.experiment import identity as identity_lib
from quped_jax.experiment import metrics as metrics_lib
from quped_jax.experiment.assemble import Assembly
from quped_jax.experiment.figures.records import Recorder
from quped_jax.experiment.resume import Saver
from quped_jax.experiment.settings import Settings
from quped_jax.simulation import processes
from quped_jax.simulation.state import SimulationState


class Job(NamedTuple):
  """A run that is under way.

  Attributes:
    made: the run.
    given: its settings, as they were given.
    identity: what its results follow from.
    workdir: where results are written; None for nowhere.
    writer: writes them.
    saver: writes checkpoints.
    recorder: records what figures need.
    display: shows progress.
  """

  made: Assembly
  given: Settings
  identity: identity_lib.Identity
  workdir: str | os.PathLike | None
  writer: metrics_lib.Writer
  saver: Saver
  recorder: Recorder
  display: metrics_lib.Display

  @classmethod
  def of(cls, made, given, identity, workdir, display, *, anew: bool) -> "Job":
    """Of several processes, only the first writes and shows anything."""
    first = processes.is_first()
    if display is None or not first:
      display = metrics_lib.Display(quiet=not first)
    writer = metrics_lib.Writer(workdir if first else None)
    saver = Saver(made, given, identity, workdir, anew=anew)
    recorder = Recorder(made, given.figures)
    return cls(made, given, identity, workdir, writer, saver, recorder, display)


def check_processes(
  settings: Settings,
  identity: identity_lib.Identity,
  state: SimulationState | None,
  *,
  resume: bool,
  written: bool,
) -> None:
  """Raises a ValueError if processes were not told to do the same.

  Args:
    settings: of the run.
    identity: likewise.
    state: that it goes on from, if it was given one.
    resume: whether it goes on from checkpoints.
    written: whether results are written.
  """
  given = settings.to_dict()
  # Where files lie may differ; their content is part of the identity.
  for path in ("data_dir", "participation_trace", "warm_start"):
    del given[path]
  told = {
    "restart": not resume,
    # All save and restore together, though the first alone writes.
    "a workdir is given": written,
    "rounds of the state": None if state is None else int(state.round),
  }
  processes.check_same({**given, **told}, identity)
