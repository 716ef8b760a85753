"""Each client's score, with what may be chance."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

pytest.importorskip(
  "matplotlib", reason="figures need matplotlib, of the extra plot"
)

from quped_jax.experiment.figures import by_client  # noqa: E402
from tests.experiment.figures import made  # noqa: E402


def test_wilsons_interval_is_that_of_scipy():
  hits, count = np.array([0, 7, 19, 20]), np.full(4, 20)
  low, high = by_client.wilson(hits / count, count)
  for i in range(4):
    expected = stats.binomtest(int(hits[i]), 20).proportion_ci(method="wilson")
    np.testing.assert_allclose([low[i], high[i]], expected, atol=1e-12)


def test_by_chance_has_most_clients_that_are_equally_good():
  low, high = by_client.by_chance(0.9, 20)
  drawn = np.random.default_rng(0).binomial(20, 0.9, 10_000) / 20
  assert 0.95 <= np.mean((drawn >= low) & (drawn <= high)) < 1
  assert (20 * low) % 1 == 0  # One of the steps.


def dots(axes):
  (found,) = [x for x in axes.lines if x.get_marker() == "o"]
  return made.points(found)


def test_each_client_is_a_dot_over_its_bits_and_over_its_samples():
  run = made.run()
  upper, lower = by_client.draw(run).axes
  accuracy = 100 * run.clients["quantized"]
  bits, shown = dots(upper)
  np.testing.assert_allclose(shown, accuracy)
  groups = np.searchsorted([1, 2, 32], run.clients["bits"])
  assert np.round(bits).astype(int).tolist() == groups.tolist()
  assert [x.get_text() for x in upper.get_xticklabels()] == ["1", "2", "32"]
  samples, shown = dots(lower)
  assert samples.tolist() == run.clients["train_samples"].tolist()
  np.testing.assert_allclose(shown, accuracy)


def test_samples_are_whole_numbers_though_all_clients_have_as_many():
  run = made.run()
  run.clients["train_samples"][:] = 25
  figure = by_client.draw(run)
  made.assert_nothing_is_outside(figure)
  low, high = figure.axes[1].get_xlim()
  marks = [x for x in figure.axes[1].get_xticks() if low < x < high]
  assert marks == [24, 25, 26]


def test_few_clients_have_intervals_and_many_a_band():
  figure = by_client.draw(made.run())
  for axes in figure.axes:
    intervals: Any = axes.collections[0]
    assert len(intervals.get_segments()) == made.CLIENTS
  assert "95 % intervals" in made.texts(figure)
  made.assert_nothing_is_outside(figure)
  figure = by_client.draw(made.run(clients=200))
  assert not any(axes.collections for axes in figure.axes)
  assert all(len(axes.patches) == 1 for axes in figure.axes)
  assert "clients with 20 test samples" in made.texts(figure).replace("\n", " ")
  made.assert_nothing_is_outside(figure)


def test_scores_that_are_no_shares_of_samples_have_no_intervals():
  figure = by_client.draw(made.run(score="r2"))
  assert not any(x.collections or x.patches for x in figure.axes)


def test_clients_without_a_score_are_left_out():
  run = made.run()
  run.clients["quantized"][:5] = np.nan
  upper, lower = by_client.draw(run).axes
  assert len(dots(upper)[0]) == len(dots(lower)[0]) == made.CLIENTS - 5


def test_networks_are_named_where_they_differ():
  run = made.run()
  run.clients["model"] = np.array(["mlp", "cnn1"] * (made.CLIENTS // 2))
  said = made.texts(by_client.draw(run))
  assert "cnn1\n1" in said and "model and bits of the client" in said
