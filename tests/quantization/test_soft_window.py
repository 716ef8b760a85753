import jax
import pytest

from quped_jax.quantization import (
  soft_window,
)
from quped_jax.quantization.soft_quantizer import steepness
from tests.levels import (
  SPACINGS,
  make_codebook,
  make_levels,
)


@jax.jit
def window_width(codebook, sharpness):
  return soft_window.window_width(codebook, steepness(codebook, sharpness))


@pytest.mark.parametrize("count", [5, 8, 16, 200, 256])
def test_the_window_of_evenly_spaced_levels_is_one_step(count):
  codebook = make_codebook(make_levels("even", count))
  assert window_width(codebook, 10.0) == 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_window_of_mirrored_levels_is_as_wide(spacing):
  for seed in range(20):
    levels = make_levels(spacing, 16, seed)
    for sharpness in (1.0, 3.0, 10.0):
      width, mirrored = (
        int(window_width(make_codebook(c, 24, 1e3), sharpness))
        for c in (levels, -levels[::-1])
      )
      assert width == mirrored
