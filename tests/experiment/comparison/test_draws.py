"""Balanced draws of the points of a grid."""

import collections
import json
import math

import hypothesis
import numpy as np
from hypothesis import strategies as st

from quped_jax.experiment.changes import flatten, unflatten
from quped_jax.experiment.comparison import draws, tune


@hypothesis.given(
  st.lists(st.integers(1, 6), min_size=0, max_size=3),
  st.data(),
  st.text(min_size=1),
)
def test_each_value_of_a_setting_is_tried_equally_often(sizes, data, name):
  space = {f"s{i}": tuple(range(size)) for i, size in enumerate(sizes)}
  # Up to the whole grid, where there is hardly a choice.
  trials = data.draw(st.integers(1, math.prod(sizes)))
  drawn = draws.draw("space", space, trials, name)
  assert len(drawn) == len({tune.describe(point) for point in drawn}) == trials
  for setting, values in space.items():
    tried = collections.Counter(point[setting] for point in drawn)
    for value in values:
      assert trials // len(values) <= tried[value] <= -(-trials // len(values))
  assert draws.draw("space", space, trials, name) == drawn


def test_much_of_a_grid_is_drawn_as_evenly_as_a_little_of_it():
  space = {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3), "c": (0, 1, 2)}
  for trials in range(1, 49):
    drawn = draws.draw("space", space, trials, "row")
    assert len({tuple(point.values()) for point in drawn}) == trials
    for setting, values in space.items():
      tried = collections.Counter(point[setting] for point in drawn)
      assert len(tried) == min(len(values), trials)
      assert max(tried.values()) <= -(-trials // len(values))


def test_draws_are_points_of_the_grid():
  space = {"learning_rate": (0.1, 0.2), "quped": {"lambda_p": (0.3, 0.4)}}
  drawn = draws.draw("space", space, 4, "quped_32")
  assert drawn == [
    {"learning_rate": rate, "quped.lambda_p": share}
    for rate in (0.1, 0.2)
    for share in (0.3, 0.4)
  ]
  assert unflatten(drawn[0]) == {
    "learning_rate": 0.1,
    "quped": {"lambda_p": 0.3},
  }
  assert flatten(unflatten(drawn[0])) == drawn[0]


def test_values_to_try_may_be_numbers_of_numpy():
  """Drawn values go into JSON files."""
  given = {
    "learning_rate": np.array([0.1, 0.2], np.float32),
    "steps": (np.int64(3), np.int64(4)),
    "quped": {"lambda_p": [np.float64(0.5), 1]},
  }
  plain = {
    "learning_rate": (0.1, 0.2),
    "steps": (3, 4),
    "quped": {"lambda_p": (0.5, 1)},
  }
  drawn = draws.draw("space", given, 4, "quped_32")
  assert drawn == draws.draw("space", plain, 4, "quped_32")
  json.dumps(drawn)
