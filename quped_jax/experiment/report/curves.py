"""The score over rounds, of several runs in one figure.

Only what draws needs matplotlib, and imports it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quped_jax.experiment.scores import Score

if TYPE_CHECKING:
  from quped_jax.experiment.figures.style import Figure

# Longer names are cut, so that the legend is not wider than the figure; two of
# these are side by side.
_LONGEST, _SHORT = 24, 12


def draw(
  lines: Mapping[str, Sequence[Mapping[str, Any]]],
  field: Mapping[str, str],
  score: Score,
  note: str,
) -> "Figure":
  """Axes with a curve of each run.

  Of more than can be told apart, those that end best are told apart.

  Args:
    lines: {name: the lines of the run's `metrics.jsonl`}.
    field: {name: which field of these lines}.
    score: what the fields are.
    note: below the title.
  """
  from quped_jax.experiment.figures import style

  curves = {
    name: (
      np.array([record["round"] for record in history], float),
      score.scale * np.array([x.get(field[name]) for x in history], float),
    )
    for name, history in lines.items()
  }
  best = sorted(curves, key=lambda name: _end(curves[name][1]), reverse=True)
  looks = style.looks(list(curves), best[: style.MOST])
  figure = style.figure()
  axes = figure.subplots()
  for name, (rounds, values) in curves.items():
    look = looks[name]
    style.line(
      axes, look, rounds, values, _short(name) if look.highlighted else ""
    )
  style.fit_score(axes, score, [values for _, values in curves.values()])
  style.whole_numbers(axes)
  style.label(axes, "round", score.axis(note))
  short = all(len(name) <= _SHORT for name in lines)
  style.legend(figure, columns=2 if short else 1, axes=axes)
  return figure


def _end(values: np.ndarray) -> float:
  return float(np.nan_to_num(values[-1], nan=-np.inf))


def _short(name: str) -> str:
  """A name as a legend shows it: matplotlib hides those that begin with _."""
  name = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
  return name.replace("$", r"\$").lstrip("_") or name
