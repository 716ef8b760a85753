"""Evaluations in MLflow."""

import time
from typing import Any

from quped_jax.experiment.callbacks import tracking
from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
)
from quped_jax.experiment.changes import flatten

# The most parameters in one request.
_BATCH = 100
_STATUS = {
  "finished": "FINISHED",
  "stopped": "FINISHED",
  "interrupted": "KILLED",
  "diverged": "FAILED",
  "error": "FAILED",
}


class MLflow(Callback):
  """Logs to MLflow, with the round as step.

  Settings are the run's parameters, and the numbers of `summary.json` metrics
  under "summary/". A run that goes on from a checkpoint goes on there too.
  Needs mlflow or mlflow-skinny: pip install 'quped_jax[mlflow]'.

  Args:
    experiment: the experiment, made if it does not exist.
    tracking_uri: of the server or store; by default that which MLflow is set
      to.
    name: of the run; by default the name of its workdir.
    tags: of the run.

  Raises:
    ImportError: neither of the packages is installed.
  """

  def __init__(
    self,
    experiment: str = "quped_jax",
    *,
    tracking_uri: str | None = None,
    name: str | None = None,
    tags: dict[str, str] | None = None,
  ):
    self._library = tracking.needed("mlflow", "mlflow", "MLflow")
    self._experiment, self._uri = experiment, tracking_uri
    self._name, self._tags = name, tags
    self._client: Any = None
    self._run_id = ""

  def on_begin(self, start: RunStart) -> None:
    """Begins a run, or goes on with it; the active run of MLflow stays so."""
    self._client = self._library.MlflowClient(tracking_uri=self._uri)
    kept = tracking.Kept(start, "mlflow.id")
    before = kept.read()
    if before is not None:
      self._run_id = before
      self._client.update_run(before, status="RUNNING")
      return
    run = self._client.create_run(
      self._experiment_id(),
      run_name=self._name or tracking.name_of(start),
      tags=self._tags,
    )
    self._run_id = run.info.run_id
    kept.write(self._run_id)
    config = flatten(tracking.config(start.settings))
    entities = self._library.entities
    params = [entities.Param(name, str(x)) for name, x in config.items()]
    for i in range(0, len(params), _BATCH):
      self._client.log_batch(self._run_id, params=params[i : i + _BATCH])

  def _experiment_id(self) -> str:
    found = self._client.get_experiment_by_name(self._experiment)
    if found is not None:
      return found.experiment_id
    return self._client.create_experiment(self._experiment)

  def _log(self, values: dict[str, float], step: int) -> None:
    now, entities = int(1000 * time.time()), self._library.entities
    metrics = [
      entities.Metric(name, value, now, step) for name, value in values.items()
    ]
    self._client.log_batch(self._run_id, metrics=metrics)

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Logs its numbers."""
    self._log(tracking.scalars(evaluation), evaluation.round)

  def on_end(self, end: RunEnd) -> None:
    """Ends the run, with what it came to."""
    found = {
      f"summary/{name}": value for name, value in tracking.results(end).items()
    }
    self._log(found, end.round)
    self._client.set_tag(self._run_id, "reason", end.reason)
    self._client.set_terminated(self._run_id, status=_STATUS[end.reason])
