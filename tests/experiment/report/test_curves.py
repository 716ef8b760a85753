"""Curves of several runs in one figure."""

import numpy as np
import pytest

from quped_jax.experiment import scores
from quped_jax.experiment.figures import style
from quped_jax.experiment.report import curves


def draw(count: int, score=scores.ACCURACY) -> style.Figure:
  lines = {
    f"run_{i}": [{"round": r, "test/x": r / 4 - i / 100} for r in (1, 2, 3)]
    for i in range(count)
  }
  return curves.draw(lines, dict.fromkeys(lines, "test/x"), score, "mean")


def values(line) -> np.ndarray:
  return np.asarray(line.get_ydata(), float)


@pytest.mark.parametrize("count", [1, 3, style.MOST + 4])
def test_every_run_has_a_curve_inside_the_axes(count):
  figure = draw(count)
  (axes,) = figure.axes
  assert len(axes.lines) == count
  low, high = axes.get_ylim()
  for line in axes.lines:
    assert low < values(line).min() and values(line).max() < high
  assert axes.get_xlabel() == "round"
  assert axes.get_ylabel().replace("\n", " ") == "accuracy, mean, %"
  (legend,) = figure.legends
  names = [x.get_text() for x in legend.get_texts()]
  # Of too many, those that end best are named.
  assert names == [f"run_{i}" for i in range(min(count, style.MOST))]


def test_the_score_says_how_it_is_shown():
  (axes,) = draw(2, scores.R2).axes
  assert axes.get_ylabel() == "R2, mean"
  assert values(axes.lines[0])[0] == 0.25


def test_names_that_matplotlib_would_read_are_shown():
  lines = {name: [{"round": 1, "x": 0.5}] for name in ("_a$b$", "a" * 60)}
  figure = curves.draw(lines, dict.fromkeys(lines, "x"), scores.R2, "mean")
  names = [x.get_text() for x in figure.legends[0].get_texts()]
  assert names[0] == r"a\$b\$" and names[1] == "…" + "a" * 23


@pytest.mark.parametrize("length", [1, 12, 13, 60])
def test_names_have_room_in_a_figure_for_half_a_page(length):
  names = [str(i).rjust(length, "m") for i in range(style.MOST)]
  lines = {name: [{"round": 1, "x": 0.5}] for name in names}
  figure = curves.draw(lines, dict.fromkeys(lines, "x"), scores.R2, "mean")
  assert figure.get_figwidth() == style.HALF
  figure.draw_without_rendering()
  (legend,) = figure.legends
  room, whole = legend.get_window_extent(), figure.bbox
  assert whole.x0 <= room.x0 and room.x1 <= whole.x1
  assert len(legend.get_texts()) == style.MOST


def test_what_is_not_known_is_a_gap():
  lines = {"a": [{"round": 1, "x": None}, {"round": 2, "x": 0.5}]}
  (axes,) = curves.draw(lines, {"a": "x"}, scores.R2, "mean").axes
  assert np.isnan(values(axes.lines[0])[0])
