"""Several runs that go at once, shown as one."""

import numpy as np

from quped_jax.experiment.callbacks.base import (
  Callback,
  Evaluation,
  RunEnd,
  RunStart,
)
from quped_jax.experiment.callbacks.display import Display


class AsOne(Callback):
  """Shows runs that go at once as one: what all say is said once.

  It is a callback of each of them.

  Args:
    display: shows them.
    runs: how many there are.
  """

  def __init__(self, display: Display, runs: int):
    self._display = display.called(f"{runs} runs at once")
    self._begun = False
    self._said: set[str] = set()
    self._first = 0
    self._found: list[Evaluation] = []

  def on_begin(self, start: RunStart) -> None:
    """Says what is going to happen, once."""
    if not self._begun:
      self._begun = True
      # Each has a folder of its own.
      self._display.on_begin(start._replace(workdir=None))

  def on_note(self, text: str) -> None:
    """Prints a line, once."""
    if text not in self._said:
      self._said.add(text)
      self._display.on_note(text)

  def on_rounds(self, first: int, last: int) -> None:
    """Shows how many rounds were given to the devices."""
    if first > self._first:
      self._first = first
      self._display.on_rounds(first, last)

  def on_evaluation(self, evaluation: Evaluation) -> None:
    """Keeps what was found in one run, until that of all is shown."""
    self._found.append(evaluation)

  def show(self) -> None:
    """Shows the means of what was found since, and what all runs cost."""
    found, self._found = self._found, []
    if not found:
      return
    metrics = [evaluation.metrics for evaluation in found]
    self._display.on_evaluation(
      Evaluation(
        found[0].round,
        {
          name: float(np.mean([own[name] for own in metrics]))
          for name in metrics[0]
        },
        # Each has its share.
        sum(x.seconds_per_round for x in found),
        sum(x.bytes_up for x in found),
        sum(x.bytes_down for x in found),
        tuple(client for x in found for client in x.diverged),
      )
    )

  def close(self) -> None:
    """Leaves what is shown as it is."""
    self._display.on_end(RunEnd("finished", 0, None, None, ""))
