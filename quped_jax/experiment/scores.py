"""Scores: what the evaluation of a run is called, and how it is shown.

Which it is follows from the loss, see `quped_jax.simulation.evaluate`. More is
better, whichever it is.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from quped_jax import checks
from quped_jax.experiment.settings import Settings
from quped_jax.methods.blocks.losses import TARGETS
from quped_jax.simulation.evaluate import LOWEST


class Score(NamedTuple):
  """A score.

  Attributes:
    name: its name in files: `summary.json` has a table under it.
    title: what people are shown.
    of: what it is, of a client.
    percent: whether it is a share, in [0, 1], that is shown in percent.
  """

  name: str
  title: str
  of: str
  percent: bool = True

  @property
  def scale(self) -> float:
    """What it is multiplied by where it is shown."""
    return 100 if self.percent else 1

  @property
  def lowest(self) -> float:
    """The least that it can be; the most is 1."""
    return 0 if self.percent else LOWEST

  def axis(self, words: str) -> str:
    """What the axis of a figure says, with words on what is shown."""
    return f"{self.title}, {words}" + (", %" if self.percent else "")

  def number(self, value: float, sign: str = "") -> str:
    """A value, or with the sign "+" a difference, without its unit."""
    digits = 1 if self.percent else 3
    return f"{self.scale * value:{sign}.{digits}f}"

  def in_words(self, value: float) -> str:
    """A value after the title."""
    return f"{self.title} {self.number(value)}" + " %" * self.percent

  def text(self, value: float) -> str:
    """A value; its unit tells shares from scores that need a title."""
    return f"{self.number(value)} %" if self.percent else self.in_words(value)

  def of_primary(self, summary: Mapping[str, Any]) -> float:
    """A summary's mean over clients, of its primary variant, or NaN."""
    mean = summary[self.name][summary["primary_variant"]]["mean"]
    return math.nan if mean is None else mean


ACCURACY = Score("accuracy", "accuracy", "% of each client's own test samples")
LABEL_ACCURACY = Score(
  "label_accuracy",
  "label accuracy",
  "% of all labels of each client's own test samples",
)
R2 = Score(
  "r2",
  "R2",
  "coefficient of determination on each client's own test samples, 1 at best",
  percent=False,
)

# By the kind of targets.
SCORES = {"classes": ACCURACY, "multi_label": LABEL_ACCURACY, "values": R2}
BY_NAME = {score.name: score for score in SCORES.values()}


def of_run(settings: Settings) -> Score:
  """The score of a run of these settings."""
  return SCORES[TARGETS[settings.loss]]


def of_summary(summary: Mapping[str, Any]) -> Score:
  """The score that a summary says that it holds; accuracy if it says nothing.

  Raises:
    ValueError: it says something else.
  """
  name = summary.get("score", ACCURACY.name)
  checks.choice("score", name, list(BY_NAME))
  return BY_NAME[name]


def says(score: Score) -> dict[str, str]:
  """What a summary says of its score: of accuracy nothing, as ever."""
  return {} if score == ACCURACY else {"score": score.name}
