"""How the rows of a comparison develop, and which matter most."""

import numpy as np
import pytest

from quped_jax.experiment.comparison import curves
from quped_jax.experiment.comparison.curves import Curve
from quped_jax.experiment.comparison.plan import Row
from tests.experiment.comparison import small


def test_a_curve_is_over_rounds_and_over_all_that_was_sent():
  second = list(small.make_results().values())[1]
  second[1].history[-1]["test/global"] = 0.3
  found = curves.curve(second)
  assert found.rounds.tolist() == [1, 2]
  np.testing.assert_allclose(found.scores, [10.0, 25.0])
  # Over seeds.
  np.testing.assert_allclose(found.std, [0.0, np.sqrt(50)])
  np.testing.assert_allclose(found.megabytes, [0.002, 0.004])


def test_one_seed_has_no_band():
  found = curves.curve({0: small.finished(0, 0.5)})
  np.testing.assert_array_equal(found.std, [0, 0])


def make_curves(*ends):
  """{row: its curve} of (last score, megabytes)."""
  return {
    Row(f"m{i}", (32,)): Curve(
      np.array([1]), np.array([score]), np.zeros(1), np.array([sent])
    )
    for i, (score, sent) in enumerate(ends)
  }


def names(rows):
  return [row.method for row in rows]


def test_the_best_are_the_first_and_those_that_end_highest():
  found = make_curves((1, 1), (5, 1), (np.nan, 1), (7, 1), (3, 1))
  assert names(curves.best(found, 3)) == ["m0", "m3", "m1"]
  assert names(curves.best(found, 9)) == ["m0", "m3", "m1", "m4", "m2"]


@pytest.mark.parametrize(
  ("most", "expected"),
  [(9, ["m0", "m1", "m3", "m4"]), (3, ["m0", "m3", "m4"])],
)
def test_the_frugal_are_those_that_none_beats_with_as_few_bytes(most, expected):
  found = make_curves(
    (5, 9),  # the first, whatever it is
    (1, 0),  # sends nothing
    (0.5, 1),  # beaten by it
    (4, 2),
    (7, 5),
    (6, 5),
    (7, 6),
    (np.nan, 0),
  )
  assert names(curves.frugal(found, most)) == expected
