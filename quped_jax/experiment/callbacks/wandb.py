"""Evaluations in Weights & Biases."""

from typing import Any

from quped_jax.experiment.callbacks import tracking
from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
)


class WandB(Callback):
  """Logs to Weights & Biases, with the round as step.

  Settings are the run's config; the numbers of `summary.json` are in its
  summary. A run that goes on from a checkpoint goes on there too. Needs wandb:
  pip install 'quped_jax[wandb]'.

  Args:
    project: the project.
    **options: further arguments of `wandb.init`, such as `mode="offline"`,
      `name`, `group` or `tags`; by default the name of the workdir is that of
      the run.

  Raises:
    ImportError: wandb is not installed.
  """

  def __init__(self, project: str = "quped_jax", **options: Any):
    self._library = tracking.needed("wandb", "wandb", "WandB")
    self._project, self._options = project, options
    self._run: Any = None

  def on_begin(self, start: RunStart) -> None:
    """Begins a run, or goes on with it."""
    kept = tracking.Kept(start, "wandb.id")
    before = kept.read()
    options = {
      "name": tracking.name_of(start),
      "dir": None if start.workdir is None else str(start.workdir),
      "config": tracking.config(start.settings),
      # Other runs may be under way.
      "reinit": "create_new",
      "id": before,
      "resume": "allow" if before else None,
      # What is printed is the display's.
      "settings": {"console": "off"},
      **self._options,
    }
    self._run = self._library.init(project=self._project, **options)
    kept.write(self._run.id)

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Logs its numbers."""
    self._run.log(tracking.scalars(evaluation), step=evaluation.round)

  def on_end(self, end: RunEnd) -> None:
    """Ends the run, as a failed one unless it finished or was stopped."""
    self._run.summary.update({**tracking.results(end), "reason": end.reason})
    self._run.finish(exit_code=0 if end.summary else 1)
