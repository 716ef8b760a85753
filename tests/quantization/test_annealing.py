import numpy as np
import pytest

import quped_jax as qj


def test_what_is_done_goes_from_start_to_end():
  annealing = qj.Annealing(anneal_start=0.2, anneal_end=0.6)
  progress = np.array([0.0, 0.2, 0.3, 0.4, 0.6, 1.0, 1.5])
  got = annealing.done(progress)
  np.testing.assert_allclose(got, [0, 0, 0.25, 0.5, 1, 1, 1], atol=1e-6)
  assert got[4] == 1


def test_quarters_of_rounds_are_exact():
  # The last quarter is quantized, from its first round on.
  for rounds in (4, 20, 40, 60, 100, 2500):
    at = np.float32(3 * rounds // 4) / np.float32(rounds)
    assert qj.Annealing().done(at) == 1
    assert qj.Annealing().done((3 * rounds // 4 - 1) / rounds) < 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"anneal_start": -0.1}, r"anneal_start=-0\.1: must be from 0 to 1"),
    ({"anneal_end": 1.1}, r"anneal_end=1\.1: must be from 0 to 1"),
    ({"anneal_start": 0.75}, r"anneal_start=0\.75: must be less than anneal_e"),
    ({"parq_steepness": 0.0}, r"parq_steepness=0\.0: must be from 0\.1 to 1"),
    ({"relax_start": 0.0}, r"relax_start=0\.0: must be positive"),
    ({"relax_growth": 0.5}, r"relax_growth=0\.5: must be at least 1"),
    ({"relax_growth": float("nan")}, "relax_growth=nan: must be at least 1"),
  ],
)
def test_errors_name_the_field(options, message):
  with pytest.raises(ValueError, match=message):
    qj.Annealing(**options)


def test_without_progress_there_is_no_annealing():
  with pytest.raises(
    ValueError, match="rates.progress=None: must be the share"
  ):
    qj.Annealing().done(None)
