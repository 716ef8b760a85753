"""A comparison's figures."""

import numpy as np

from quped_jax.experiment.comparison import figures
from quped_jax.experiment.comparison.plan import Row
from tests.experiment.comparison import small


def test_a_curve_is_over_rounds_and_over_all_that_was_sent():
  second = list(small.make_results().values())[1]
  rounds, accuracy, megabytes = figures.curve(second)
  assert rounds.tolist() == [1, 2]
  np.testing.assert_allclose(accuracy, [10.0, 20.0])
  np.testing.assert_allclose(megabytes, [0.002, 0.004])


def test_every_row_looks_different():
  rows = [Row(f"m{i}", bits) for i in range(24) for bits in ((32,), (1,))]
  looks = [tuple(style.values()) for style in figures.styles(rows).values()]
  assert len(set(looks)) == len(rows)


def test_figures_are_written(tmp_path):
  paths = figures.write(small.make_results(), tmp_path)
  assert len(paths) == 3
  for path in paths:
    assert path.stat().st_size > 9000
