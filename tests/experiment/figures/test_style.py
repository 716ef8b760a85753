"""One look for all figures: told apart by everyone, nothing outside."""

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
  "matplotlib", reason="figures need matplotlib, of the extra plot"
)

from matplotlib import colors, rcParams  # noqa: E402

from quped_jax.experiment import scores  # noqa: E402
from quped_jax.experiment.figures import style  # noqa: E402

# How colours are seen with one kind of cone missing, in linear RGB: Machado,
# Oliveira, Fernandes, A Physiologically-based Model for Simulation of Color
# Vision Deficiency, 2009.
SEEN = {
  "all cones": np.eye(3),
  "no long ones": np.array(
    [
      [0.152286, 1.052583, -0.204868],
      [0.114503, 0.786281, 0.099216],
      [-0.003882, -0.048116, 1.051998],
    ]
  ),
  "no middle ones": np.array(
    [
      [0.367322, 0.860646, -0.227968],
      [0.280085, 0.672501, 0.047413],
      [-0.011820, 0.042940, 0.968881],
    ]
  ),
  "no short ones": np.array(
    [
      [1.255528, -0.076749, -0.178779],
      [-0.078411, 0.930809, 0.147602],
      [0.004733, 0.691367, 0.303900],
    ]
  ),
}


def lab(colour, seen):
  """A colour in CIELAB."""
  rgb = np.array(colors.to_rgb(colour))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  to_xyz = np.array(
    [
      [0.4124564, 0.3575761, 0.1804375],
      [0.2126729, 0.7151522, 0.0721750],
      [0.0193339, 0.1191920, 0.9503041],
    ]
  )
  xyz = to_xyz @ np.clip(seen @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
  f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_colours_differ_for_everyone(kind):
  found = [lab(colour, SEEN[kind]) for colour in style.COLOURS]
  for a, b in itertools.combinations(found, 2):
    assert np.linalg.norm(a - b) > 15
  # And from the white on which they are drawn.
  assert max(f[0] for f in found) < 75


def test_up_to_eight_curves_differ_without_colours():
  chosen = style.looks([f"curve {i}" for i in range(style.MOST)])
  assert all(look.highlighted for look in chosen.values())
  assert len({look.line for look in chosen.values()}) == style.MOST
  assert len({look.marker for look in chosen.values()}) == style.MOST


def test_of_more_curves_some_are_highlighted_over_grey():
  names = list(range(30))
  chosen = style.looks(names, highlighted={3, 20})
  assert [n for n in names if chosen[n].highlighted] == [3, 20]
  assert {chosen[n].colour for n in names if n not in (3, 20)} == {style.GREY}
  assert sum(look.highlighted for look in style.looks(names).values()) == 8
  with pytest.raises(ValueError, match="must be at most 8"):
    style.looks(names, highlighted=names[:9])


def curves():
  figure = style.figure()
  axes = figure.subplots()
  x = np.arange(1, 30)
  for i, look in style.looks(range(3)).items():
    style.line(axes, look, x, np.sqrt(x) + i, f"curve {i}")
    style.band(axes, look, x, np.sqrt(x) + i - 1, np.sqrt(x) + i + 1)
  style.label(axes, "round", "a score, mean over all clients, %")
  return figure, axes, x


def test_axes_say_what_they_show_in_letters_that_can_be_read():
  figure, axes, _ = curves()
  style.legend(axes)
  figure.draw_without_rendering()
  names: Any = axes.get_legend()
  texts: list[Any] = [axes.xaxis.label, axes.yaxis.label, *names.get_texts()]
  texts += axes.get_xticklabels() + axes.get_yticklabels()
  assert min(text.get_fontsize() for text in texts) >= 7
  # Long labels do not run off the figure.
  box = axes.yaxis.label.get_window_extent()
  assert box.y0 >= 0 and box.y1 <= figure.bbox.height
  assert any(line.get_visible() for line in axes.get_xgridlines())


def test_a_legend_below_leaves_the_axes_as_large_as_they_were():
  figure, axes, _ = curves()
  figure.draw_without_rendering()
  before = axes.get_window_extent().height
  style.legend(figure, columns=2)
  figure.draw_without_rendering()
  assert axes.get_window_extent().height > 0.9 * before


def test_nothing_lies_outside_the_axes():
  _, axes, x = curves()
  style.fit(axes, [np.sqrt(x) - 1, np.sqrt(x) + 3, np.nan])
  low, high = axes.get_ylim()
  for drawn in axes.lines:
    assert low < np.min(drawn.get_ydata()) and np.max(drawn.get_ydata()) < high
  style.fit(axes, [[2.0, 2.0]])
  low, high = axes.get_ylim()
  assert low < 2 < high
  style.fit(axes, [[np.nan]], "x")
  assert np.isfinite(axes.get_xlim()).all()


def test_scores_that_are_far_below_zero_are_inside_too():
  _, axes, _ = curves()
  style.fit_score(axes, scores.ACCURACY, [[10.0, 95.0]])
  assert axes.get_yscale() == "linear"
  assert 0 < axes.get_ylim()[0] < 10 < 95 < axes.get_ylim()[1] <= 100
  style.fit_score(axes, scores.R2, [[-1e6, 0.9]])
  assert axes.get_yscale() == "symlog"
  assert axes.get_ylim()[0] < -1e6 < 0.9 < axes.get_ylim()[1]


@pytest.mark.parametrize(
  ("count", "columns", "expected"),
  [(1, 2, (1, 1)), (3, 2, (2, 2)), (9, 3, (3, 3)), (0, 2, (1, 1))],
)
def test_small_axes_are_in_a_grid(count, columns, expected):
  assert style.grid(count, columns) == expected


def test_files_are_the_same_each_time_and_settings_as_they_were(tmp_path):
  before = dict(rcParams)
  found = []
  for folder in (tmp_path / "a", tmp_path / "b"):
    folder.mkdir()
    figure, _, _ = curves()
    written = style.save(figure, folder, "x", ("png", "svg", "pdf"))
    assert [path.name for path in written] == ["x.png", "x.svg", "x.pdf"]
    found.append([path.read_bytes() for path in written])
  assert found[0] == found[1]
  assert dict(rcParams) == before


def test_a_notebook_shows_a_figure():
  figure, _, _ = curves()
  assert figure._repr_png_().startswith(b"\x89PNG")
