"""How levels form."""

import numpy as np
import pytest

pytest.importorskip(
  "matplotlib", reason="figures need matplotlib, of the extra plot"
)

from quped_jax.experiment.figures import levels  # noqa: E402
from tests.experiment.figures import made  # noqa: E402


def look(low, high, counts, at):
  return {"low": low, "high": high, "counts": counts, "levels": at}


def test_histograms_of_different_ranges_are_put_on_one_axis():
  found = levels.develop(
    [(0, look(0.0, 1.0, [1, 1], [0.5])), (3, look(0.0, 2.0, [3, 1], [0.1]))]
  )
  assert found.rounds.tolist() == [0, 3]
  assert found.edges[0] == 0 and found.edges[-1] == 2
  np.testing.assert_allclose(found.density.sum(1), 1.0)
  half = len(found.edges) // 2
  # The first has nothing above 1; the second a quarter of its weights.
  np.testing.assert_allclose(found.density[0, half:].sum(), 0.0, atol=1e-12)
  np.testing.assert_allclose(found.density[1, half:].sum(), 0.25)
  assert found.levels.tolist() == [[0.5], [0.1]]


def test_the_axis_has_levels_beyond_all_weights():
  found = levels.develop([(0, look(0.0, 1.0, [1, 1], [-3.0, 4.0]))])
  assert found.edges[0] == -3 and found.edges[-1] == 4


@pytest.mark.parametrize("count", [2, 256])
def test_every_tensor_has_its_weights_and_a_line_for_each_level(count):
  run = made.run(levels=count)
  figure = levels.draw(run)
  assert figure is not None
  assert len(figure.axes) == 6
  for row, name in enumerate(("first", "second")):
    before, middle, after = figure.axes[3 * row : 3 * row + 3]
    assert len(middle.lines) == count
    assert middle.get_title() == name
    for line, at in zip(middle.lines, np.linspace(-1, 1, count), strict=True):
      np.testing.assert_allclose(made.points(line)[1][[0, -1]], [at, 2 * at])
    # The histogram, and marks at the levels.
    assert len(before.collections) == len(after.collections) == 2
  made.assert_nothing_is_outside(figure)
  said = made.texts(figure)
  for words in ("round 0", "round 12", "weight", "client 1, 2 bits", "levels"):
    assert words in said


def test_a_run_that_looked_once_is_drawn_too():
  run = made.run()
  figure = levels.draw(run._replace(records=run.records[:1]))
  assert figure is not None
  made.assert_nothing_is_outside(figure)


def test_without_weights_there_is_no_figure():
  assert levels.draw(made.run(tensors=())) is None
