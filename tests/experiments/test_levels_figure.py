"""The figure of docs/how-quped-works.md: levels and weights, from a run."""

from typing import Any

import numpy as np
import pytest

from experiments import levels_figure
from tests.experiments.commands import command


def test_a_panel_has_the_weights_and_a_line_at_every_level():
  levels = np.array([-0.3, 0.0, 0.1, 0.2])
  weights = np.repeat(levels, 25)
  accuracy = {"personalized": 0.9, "quantized": 0.8}
  moments = [
    levels_figure.Moment(number, weights, levels, accuracy) for number in (0, 5)
  ]
  figure = levels_figure.draw(moments)
  assert len(figure.axes) == 2
  for axes, when in zip(figure.axes, ("start", "5 rounds"), strict=True):
    lines: list[Any] = [line.get_xdata() for line in axes.lines]
    np.testing.assert_allclose([x[0] for x in lines], levels)
    bars: list[Any] = list(axes.patches)
    heights = [bar.get_height() for bar in bars]
    assert sum(heights) == pytest.approx(100)
    assert when in axes.get_title() and "80 %" in axes.get_title()


@pytest.mark.long
def test_it_is_drawn_from_a_run(tmp_path):
  path = tmp_path / "figure.png"
  done = command("levels_figure", f"--figure={path}", "--rounds=0,1")
  assert done.returncode == 0, done.stderr[-2000:]
  assert path.read_bytes().startswith(b"\x89PNG")
