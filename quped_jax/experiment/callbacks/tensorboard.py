"""Evaluations in TensorBoard's files."""

import json
import os
from typing import Any

from quped_jax.experiment.callbacks import tracking
from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
)

# Between writes to disk.
_SECONDS = 2


class TensorBoard(Callback):
  """Writes scalars for TensorBoard, with the round as step.

  `tensorboard --logdir WORKDIR` shows them: "test/quantized" and other scores,
  "train/loss" and other metrics, and "cost/bytes_up" and others. The settings
  are its text "settings". Needs tensorboardX: pip install
  'quped_jax[tensorboard]'.

  Args:
    folder: where they go; by default `tensorboard` in the workdir.

  Raises:
    ImportError: tensorboardX is not installed.
  """

  def __init__(self, folder: str | os.PathLike | None = None):
    self._library = tracking.needed(
      "tensorboardX", "tensorboard", "TensorBoard"
    )
    self._folder = folder
    self._writer: Any = None

  def on_begin(self, start: RunStart) -> None:
    """Opens the files; later steps of an earlier run are not shown."""
    folder = tracking.place("folder", self._folder, start, "tensorboard")
    self._writer = self._library.SummaryWriter(
      str(folder),
      purge_step=start.round + 1,
      flush_secs=_SECONDS,
      # A file of this second may be there.
      filename_suffix=f".{start.round}",
    )
    settings = json.dumps(tracking.config(start.settings), indent=2)
    # Markdown shows what is indented as it is.
    text = "\n".join(f"    {line}" for line in settings.splitlines())
    self._writer.add_text("settings", text, start.round)

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Writes its numbers, which can be seen within seconds."""
    for name, value in tracking.scalars(evaluation).items():
      self._writer.add_scalar(name, value, evaluation.round)

  def on_end(self, end: RunEnd) -> None:
    """Closes the files."""
    del end
    self._writer.close()
