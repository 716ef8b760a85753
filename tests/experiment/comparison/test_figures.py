"""A comparison's figures."""

import itertools

import numpy as np
import pytest

from quped_jax.experiment.comparison import figures
from quped_jax.experiment.comparison.plan import Row
from quped_jax.experiment.figures import style
from tests.experiment.comparison import small


def make_shown(rows=2):
  """Rows of two seeds; row i is called "row i" and ends higher than others."""
  sent = [0, *[1000] * (rows - 1)]
  runs = {
    Row(f"m{i}", (32,)): {
      seed: small.finished(seed, 0.7, sent=sent[i], shift=-0.001 * i)
      for seed in (0, 1)
    }
    for i in range(rows)
  }
  for i, own in enumerate(runs.values()):
    for seed, run in own.items():
      run.history[0]["test/quantized"] = 0.1
      run.history[1]["test/quantized"] = 0.8 + 0.01 * i + 0.02 * seed
  names = {row: f"row {i}" for i, row in enumerate(runs)}
  return figures.Shown(runs, names, {0: np.full(40, 20), 1: np.full(40, 20)})


def texts(axes):
  return {text.get_text().replace("\n", " ") for text in axes.texts}


def inside(axes):
  """Asserts that no line runs off the axes."""
  for line in axes.lines:
    for limits, values in (
      (axes.get_xlim(), line.get_xdata()),
      (axes.get_ylim(), line.get_ydata()),
    ):
      if line.get_transform() == axes.transData:
        assert min(limits) <= np.min(values) and np.max(values) <= max(limits)


@pytest.mark.parametrize("kind", ["rounds", "bytes"])
def test_few_curves_are_all_named_and_none_leaves_the_axes(kind):
  figure = figures.KINDS[kind](make_shown(4))
  (axes,) = figure.axes
  inside(axes)
  first = "row 0 (sends nothing)" if kind == "bytes" else "row 0"
  assert texts(axes) == {first, "row 1", "row 2", "row 3"}
  assert len({line.get_color() for line in axes.lines}) == 4
  # A band over seeds for each that is drawn over rounds or bytes.
  assert len(axes.collections) == (3 if kind == "bytes" else 4)
  label = axes.get_ylabel().replace("\n", " ")
  assert label == "accuracy, mean over clients, % (log scale of the error)"


def test_of_many_curves_the_first_and_the_best_are_told_apart():
  (axes,) = figures.over_rounds(make_shown(16)).axes
  inside(axes)
  assert texts(axes) == {"row 0", *(f"row {i}" for i in range(11, 16))} | {
    "10 other rows"
  }
  grey = [line for line in axes.lines if line.get_color() == style.GREY]
  assert len(grey) == 10 and len(axes.lines) == 16
  assert axes.get_xlim()[0] <= 1


def test_near_100_percent_curves_are_told_apart():
  shown = make_shown(2)
  (axes,) = figures.over_rounds(shown).axes
  low, middle, high = (
    axes.transData.transform((1, share))[1] for share in (10, 55, 100)
  )
  # Half of the errors takes far less than half of the axis.
  assert middle - low < (high - low) / 4
  assert 82 < axes.get_ylim()[1] < 90


@pytest.mark.parametrize("factor", [1.0, 1.9, 2.1, 5.1, 49.0, 51.0])
@pytest.mark.parametrize("sent", [1000, 71760, 3.3e6])
def test_numbers_below_the_axis_of_bytes_do_not_overlap(factor, sent):
  shown = make_shown(3)
  # Over two rounds, from `2 * sent` bytes to `4 * factor * sent`.
  for row, times in zip(list(shown.runs)[1:], (1, factor), strict=True):
    for run in shown.runs[row].values():
      run.summary.update(bytes_up=times * sent, bytes_down=times * sent)
  figure = figures.over_bytes(shown)
  figure.draw_without_rendering()
  (axes,) = figure.axes
  low, high = axes.get_xlim()
  marks = axes.xaxis.get_major_ticks() + axes.xaxis.get_minor_ticks()
  places = sorted(
    (mark.label1.get_window_extent().x0, mark.label1.get_window_extent().x1)
    for mark in marks
    if low <= mark.get_loc() <= high and mark.label1.get_text()
  )
  assert len(places) >= 2
  assert all(a[1] < b[0] for a, b in itertools.pairwise(places))


def test_clients_are_dots_with_the_best_row_on_top():
  shown = make_shown(3)
  (axes,) = figures.of_clients(shown).axes
  assert [label.get_text() for label in axes.get_yticklabels()] == [
    "row 0",
    "row 1",
    "row 2",
    "chance alone, 20 samples",
  ]
  lines = [np.asarray(line.get_xydata()) for line in axes.lines]
  dots = [points for points in lines if len(points) == 80]
  assert len(dots) == 3
  for place, (points, own) in enumerate(
    zip(dots, shown.runs.values(), strict=True)
  ):
    scores = np.concatenate([run.scores for run in own.values()])
    np.testing.assert_allclose(points[:, 0], 100 * scores)
    assert np.max(np.abs(points[:, 1] - place)) < 0.4
  low, high = axes.get_xlim()
  assert low < 60 and high > 100


def test_clients_without_samples_are_in_no_figure():
  shown = make_shown(2)
  for run in (run for own in shown.runs.values() for run in own.values()):
    run.scores[:3] = np.nan
  for counts in shown.test_samples.values():
    counts[:3] = 0
  (axes,) = figures.of_clients(shown).axes
  assert axes.get_yticklabels()[-1].get_text() == "chance alone, 20 samples"


def test_labels_are_close_to_their_curves_and_do_not_overlap():
  wanted, sizes = [0.9, 0.2, 0.91, 0.93, 0.05], [0.1, 0.1, 0.2, 0.1, 0.2]
  found = figures.spread(wanted, sizes)
  for i, j in itertools.combinations(range(5), 2):
    assert abs(found[i] - found[j]) >= (sizes[i] + sizes[j]) / 2 - 1e-9
    assert (found[i] < found[j]) == (wanted[i] < wanted[j])
  assert found.max() <= 0.95 + 1e-9 and found.min() >= 0.1 - 1e-9
  assert found[1] == pytest.approx(0.25)  # pushed up by the lowest, no further
  assert figures.spread([], []).size == 0


def test_figures_are_written_in_three_formats(tmp_path):
  paths = figures.write(make_shown(), tmp_path)
  assert sorted(path.name for path in paths) == sorted(
    f"accuracy_{what}.{kind}"
    for what in ("over_rounds", "over_bytes", "of_clients")
    for kind in ("png", "svg", "pdf")
  )
  for path in paths:
    start = path.read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"<?xml", b"%PDF-")
