"""Callbacks: what a user has done while a run goes on.

`Callback` is the base class for one's own; the others are ready to use:
`qj.run(settings, workdir, callbacks=[qj.callbacks.TensorBoard()])`. What they
need beyond the package is imported when they are made.
"""

from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
  StopRun,
)
from quped_jax.experiment.callbacks.csv_file import CSV
from quped_jax.experiment.callbacks.display import Display
from quped_jax.experiment.callbacks.mlflow import MLflow
from quped_jax.experiment.callbacks.tensorboard import TensorBoard
from quped_jax.experiment.callbacks.wandb import WandB

__all__ = [
  "CSV",
  "Callback",
  "Display",
  "Evaluation",
  "MLflow",
  "RunEnd",
  "RunStart",
  "StopRun",
  "TensorBoard",
  "WandB",
]
