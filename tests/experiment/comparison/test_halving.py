"""Successive halving: fewer and fewer trials go on, in as many rounds."""

import hypothesis
import pytest
from hypothesis import strategies as st

from quped_jax.experiment.comparison import halving


@hypothesis.given(st.integers(1, 20), st.integers(0, 5), st.integers(0, 60))
def test_trials_take_as_many_rounds_as_without(trials, halvings, more):
  rounds = 3 * 2**halvings
  section = {"rounds": rounds, "halving": halvings}
  ends = halving.rounds_of_rungs(section)
  assert len(ends) == halvings + 1 and ends[-1] == rounds
  assert all(b == 2 * a for a, b in zip(ends, ends[1:], strict=False))
  most = trials + more
  sizes = halving.sizes_of_rungs(trials, halvings, most)
  assert len(sizes) == len(ends)
  new = [b - a for a, b in zip([0, *ends], ends, strict=False)]
  taken = sum(n * rounds for n, rounds in zip(sizes, new, strict=True))
  assert taken == trials * rounds
  assert most >= sizes[0] >= trials
  assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1


@pytest.mark.parametrize(
  ("trials", "halvings", "most", "sizes"),
  [
    (6, 0, 100, [6]),
    (6, 1, 100, [8, 4]),
    (6, 2, 100, [12, 6, 3]),
    # Of few trials, more go on.
    (6, 2, 9, [9, 7, 4]),
    (6, 2, 6, [6, 6, 6]),
  ],
)
def test_each_rung_has_half_as_many(trials, halvings, most, sizes):
  assert halving.sizes_of_rungs(trials, halvings, most) == sizes


@pytest.mark.parametrize(
  ("section", "message"),
  [
    (
      {"rounds": 20, "halving": 3},
      "tune.halving=3: must be at most 2 with",
    ),
    ({"rounds": 5, "halving": 1}, "=1: must be at most 0 with tune.rounds=5"),
    ({"rounds": 20, "halving": -1}, "tune.halving=-1: must be at least 0"),
    ({"rounds": 20, "halving": 1.5}, "tune.halving=1.5: must be a whole num"),
  ],
)
def test_rounds_are_halved_as_often(section, message):
  with pytest.raises(ValueError, match=message):
    halving.check(section)


def test_it_is_off_by_default():
  halving.check({"rounds": 20})
  assert halving.rounds_of_rungs({"rounds": 20}) == [20]
