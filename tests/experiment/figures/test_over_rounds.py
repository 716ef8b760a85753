"""The score over rounds."""

import numpy as np
import pytest

pytest.importorskip(
  "matplotlib", reason="figures need matplotlib, of the extra plot"
)

from quped_jax.experiment.figures import over_rounds, style  # noqa: E402
from tests.experiment.figures import made  # noqa: E402


def ours(axes):
  """The curve of the axes' own variant."""
  (line,) = [x for x in axes.lines if x.get_color() != style.GREY]
  return line


def test_every_variant_has_axes_with_its_mean_and_a_band():
  run = made.run()
  figure = over_rounds.draw(run)
  assert len(figure.axes) == 3
  for axes, variant in zip(figure.axes, run.variants, strict=True):
    rounds, accuracy = made.points(ours(axes))
    assert rounds.tolist() == list(range(1, made.ROUNDS + 1))
    np.testing.assert_allclose(accuracy, run.curve(variant)[1])
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    np.testing.assert_allclose([low, high], [15.0, 90.0])
  made.assert_nothing_is_outside(figure)
  said = made.texts(figure)
  for words in (
    "accuracy, %", "round", "10th to 90th percentile", "quantized model",
    "global model", "QuPeD, 1, 2, 32 bits",
  ):  # fmt: skip
    assert words in said


def test_it_says_where_the_first_evaluation_is():
  run = made.run(first=4)
  figure = over_rounds.draw(run)
  assert "evaluated from round 4 on" in made.texts(figure)
  assert made.points(ours(figure.axes[0]))[0][0] == 4
  assert "evaluated from" not in made.texts(over_rounds.draw(made.run()))


def test_without_records_there_are_means_alone():
  figure = over_rounds.draw(made.run()._replace(records=[]))
  assert not any(axes.collections for axes in figure.axes)
  assert "percentile" not in made.texts(figure)


def test_grey_is_explained_where_there_is_some():
  assert "grey: the other variants" in made.texts(over_rounds.draw(made.run()))
  run = made.run()
  for record in run.history:
    record.pop("test/personalized")
    record.pop("test/global")
  assert "grey" not in made.texts(over_rounds.draw(run))


def test_at_full_precision_the_quantized_model_is_the_personalized_one():
  run = made.run(bits=(32,), tensors=())
  assert run.variants == ["personalized", "global"]
  assert len(over_rounds.draw(run).axes) == 2


def test_a_score_far_below_zero_is_inside():
  run = made.run(score="r2")
  run.history[0]["test/quantized"] = -1e6
  figure = over_rounds.draw(run)
  made.assert_nothing_is_outside(figure)
  assert "R2" in made.texts(figure) and "%" not in made.texts(figure)
