"""Paired differences and their intervals."""

import numpy as np
import pytest

from quped_jax.experiment.comparison import statistics
from tests.experiment.comparison.small import clients


def test_identical_runs_do_not_differ():
  own = {seed: clients(seed) for seed in range(3)}
  assert statistics.paired_difference(own, own) == (0.0, 0.0, 0.0)


def test_a_shift_is_found_through_the_spread_of_clients():
  other = {seed: clients(seed) for seed in range(3)}
  noise = np.random.default_rng(9)
  own = {s: x + 0.1 + noise.normal(0, 0.02, 40) for s, x in other.items()}
  difference = statistics.paired_difference(own, other)
  assert difference.mean == pytest.approx(0.1, abs=0.01)
  assert difference.low is not None and difference.high is not None
  assert 0.08 < difference.low < difference.mean < difference.high < 0.12


def test_noise_of_clients_gives_an_interval_with_zero():
  # The same distribution twice: unpaired, so that the interval is wide.
  own = {seed: clients(seed) for seed in range(3)}
  other = {seed: clients(seed + 100) for seed in range(3)}
  difference = statistics.paired_difference(own, other)
  assert difference.low is not None and difference.high is not None
  assert difference.low < 0 < difference.high
  # Where seeds agree, it is about the spread of a mean of all clients.
  same = statistics.paired_difference(
    {s: own[0] for s in range(3)}, {s: other[0] for s in range(3)}
  )
  assert same.low is not None and same.high is not None
  expected = 2 * 1.96 * np.std(own[0] - other[0]) / np.sqrt(3 * 40)
  assert same.high - same.low == pytest.approx(expected, rel=0.15)


def test_one_seed_gives_a_difference_without_an_interval():
  own, other = {0: clients(0)}, {0: clients(100)}
  difference = statistics.paired_difference(own, other)
  assert difference.mean == pytest.approx(np.mean(own[0] - other[0]))
  assert difference.low is None and difference.high is None


def test_seeds_that_disagree_widen_the_interval():
  other = {seed: clients(seed) for seed in range(3)}
  own = {seed: other[seed] + shift for seed, shift in enumerate((0, 0.1, 0.2))}
  difference = statistics.paired_difference(own, other)
  # Within each seed all clients agree.
  assert difference.mean == pytest.approx(0.1)
  assert difference.low is not None and difference.high is not None
  assert difference.low < 0.04
  assert difference.high > 0.16


def test_clients_without_accuracy_are_left_out():
  other = {0: clients(0), 1: clients(1)}
  own = {0: other[0] + 0.1, 1: other[1] + 0.1}
  own[0][3] = np.nan
  difference = statistics.paired_difference(own, other)
  assert difference == pytest.approx((0.1, 0.1, 0.1))


def test_differences_need_the_same_seeds_and_clients():
  with pytest.raises(ValueError, match=r"seeds=\[0\]: must be \[1\]"):
    statistics.paired_difference({0: clients(0)}, {1: clients(0)})
  with pytest.raises(ValueError, match="seed 0: must have 3 clients"):
    statistics.paired_difference({0: clients(0)}, {0: clients(0, 3)})


def test_the_same_clients_in_all_seeds_are_drawn_once():
  # Seeds agree on how clients differ: more seeds tell nothing new of these.
  spread = np.random.default_rng(5).normal(0.1, 0.2, 40)
  other = {seed: np.zeros(40) for seed in range(3)}
  own = {seed: spread for seed in range(3)}
  independent = statistics.paired_difference(own, other)
  same = statistics.paired_difference(own, other, same_clients=True)
  assert same.mean == independent.mean == pytest.approx(spread.mean())
  widths = []
  for found in (independent, same):
    assert found.low is not None and found.high is not None
    widths.append(found.high - found.low)
  assert widths[1] == pytest.approx(np.sqrt(3) * widths[0], rel=0.1)
  expected = 2 * 1.96 * np.std(spread) / np.sqrt(40)
  assert widths[1] == pytest.approx(expected, rel=0.1)


def test_seeds_of_the_same_clients_are_drawn_too():
  other = {seed: np.zeros(40) for seed in range(3)}
  own = {seed: np.full(40, 0.1 * seed) for seed in range(3)}
  found = statistics.paired_difference(own, other, same_clients=True)
  assert found.mean == pytest.approx(0.1)
  assert found.low is not None and found.high is not None
  assert found.low < 0.04 and found.high > 0.16


def test_the_same_clients_have_scores_in_all_seeds_or_do_not_count():
  other = {seed: np.zeros(4) for seed in range(2)}
  own = {0: np.array([np.nan, 1, 1, 9]), 1: np.array([np.nan, 1, 1, np.nan])}
  found = statistics.paired_difference(own, other, same_clients=True)
  assert found == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
  ("share", "samples", "expected"),
  # Brown, Cai and DasGupta 2001; and 0 of n, whose upper end is z2 / (n + z2).
  [
    (0.5, 10, (0.2366, 0.7634)),
    (0.0, 20, (0.0, 1.96**2 / (20 + 1.96**2))),
    (1.0, 20, (20 / (20 + 1.96**2), 1.0)),
  ],
)
def test_chance_is_wilsons_interval(share, samples, expected):
  found = statistics.chance(share, samples)
  assert found == pytest.approx(expected, abs=1e-4)
