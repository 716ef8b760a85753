"""Heat maps."""

import numpy as np
from matplotlib.patches import Rectangle

from quped_jax.experiment import scores
from quped_jax.experiment.comparison import heat_map

MEANS = np.array([[0.5, 0.625, 0.75], [np.nan, 0.9, 0.8]])


def draw(means=MEANS, score=scores.ACCURACY, stds=None):
  return heat_map.draw(
    ("learning_rate", [f"x{i}" for i in range(means.shape[1])]),
    ("lambda_p", [f"y{i}" for i in range(means.shape[0])]),
    means,
    np.full(means.shape, 0.01) if stds is None else stds,
    score,
    "QuPeD, 1 bit",
  )


def test_each_cell_says_its_value_and_the_best_is_framed():
  axes, bar = draw().axes
  found = {text.get_position(): text.get_text() for text in axes.texts}
  assert found == {
    (0, 0): "50.0\n(1.0)",
    (1, 0): "62.5\n(1.0)",
    (2, 0): "75.0\n(1.0)",
    (0, 1): "diverged",
    (1, 1): "90.0\n(1.0)",
    (2, 1): "80.0\n(1.0)",
  }
  frames = [x for x in axes.patches if isinstance(x, Rectangle)]
  for frame in frames:
    left, bottom = frame.get_xy()
    # Around the cell at (1, 1).
    assert (round(left + 0.5), round(bottom + 0.5)) == (1, 1)
  assert len(frames) == 2  # dark in light: it is seen on every colour
  (image,) = axes.images
  colours = np.ma.masked_invalid(np.ma.asarray(image.get_array()))
  np.testing.assert_array_equal(colours.filled(np.nan), 100 * MEANS)
  assert bar.get_ylabel() == "accuracy, mean, %"
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "lambda_p")
  # From bottom to top.
  assert axes.get_ylim()[0] < axes.get_ylim()[1]


def test_numbers_are_seen_on_their_colours():
  axes, _ = draw().axes
  colours = {text.get_text()[:4]: text.get_color() for text in axes.texts}
  assert colours["50.0"] == "white" and colours["90.0"] == "black"


def test_many_columns_have_colours_alone():
  axes, _ = draw(np.linspace(0, 1, 24).reshape(2, 12)).axes
  assert not axes.texts


def test_a_grid_of_which_all_diverged_has_no_best():
  axes, _ = draw(np.full((2, 2), np.nan)).axes
  assert not axes.patches
  assert {text.get_text() for text in axes.texts} == {"diverged"}


def test_scores_that_are_no_shares_have_no_percent():
  axes, bar = draw(score=scores.R2, stds=np.zeros((2, 3))).axes
  assert axes.texts[0].get_text() == "0.500" and bar.get_ylabel() == "R2, mean"
