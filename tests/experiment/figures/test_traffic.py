"""Bytes of clients, and the score that they lead to."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip(
  "matplotlib", reason="figures need matplotlib, of the extra plot"
)

from quped_jax.experiment.figures import traffic  # noqa: E402
from tests.experiment.figures import made  # noqa: E402


@pytest.mark.parametrize(
  ("most", "unit"),
  [(1, "bytes"), (999, "bytes"), (1e3, "KB"), (2.5e6, "MB"), (1e9, "GB")],
)
def test_units_fit_the_largest_number(most, unit):
  size, name = traffic.unit_of(most)
  assert name == unit and 1 <= most / size < 1000


def test_every_type_has_two_bars_and_the_score_is_over_all_bytes():
  run = made.run()
  figure = traffic.draw(run)
  assert figure is not None
  upper, lower = figure.axes
  bars: Any = upper.patches
  widths = sorted(bar.get_width() for bar in bars)
  np.testing.assert_allclose(widths, [1.5] * 3 + [3.0] * 3)
  (line,) = lower.lines
  # Half of the clients take part in a round; up and down.
  sent, accuracy = made.points(line)
  np.testing.assert_allclose(sent[-1], 4.5 * 12 / 2)
  np.testing.assert_allclose(accuracy, run.curve("quantized")[1])
  made.assert_nothing_is_outside(figure)
  said = made.texts(figure)
  for words in (
    "1 bit", "32 bits", "1.5 up", "3 down", "KB of a client per round",
    "KB per client so far",
  ):  # fmt: skip
    assert words in said


def test_words_stand_aside_of_bars_by_no_space_which_browsers_leave_out():
  figure = traffic.draw(made.run())
  assert figure is not None
  words: Any = figure.axes[0].texts
  assert len(words) == 6
  for text in words:
    assert text.get_text() == text.get_text().strip()
    assert text.xyann[0] > 0


def test_networks_are_named_where_they_differ():
  run = made.run()
  types = run.summary["client_types"]
  types["cnn1@1"] = types.pop("mlp(8,8)@1")
  figure = traffic.draw(run)
  assert figure is not None
  assert "cnn1, 1 bit" in made.texts(figure)


def test_where_nothing_is_sent_there_is_no_figure():
  assert traffic.draw(made.run(sent=0.0)) is None


def test_nor_of_a_run_that_did_not_say_who_sends_what():
  run = made.run()
  for row in run.summary["client_types"].values():
    row.clear()
  assert traffic.draw(run) is None
