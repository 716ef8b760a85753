import re

import jax
import jax.numpy as jnp
import pytest

from quped_jax.quantization import (
  soft_forms,
)
from quped_jax.quantization.codebook import (
  Codebook,
)
from quped_jax.quantization.soft_quantizer import soft_quantize


@pytest.mark.parametrize(
  ("max_levels", "weights", "bins", "on_cpu", "elsewhere"),
  [
    (2, 2**20, 0, "dense", "together"),
    (4, 2**20, 744, "dense", "together"),
    (16, 2**9, 0, "table", "together"),
    (16, 2**10, 0, "windowed", "together"),
    (16, 2**20, 2**13, "table", "together"),
    (16, 2**20, 2**14, "windowed", "together"),
    (256, 2**5, 0, "table", "table"),
    (256, 2**9, 0, "windowed", "table"),
    (256, 2**20, 0, "windowed", "windowed"),
    (256, 2**20, 30_984, "windowed", "windowed"),
  ],
)
def test_size_and_platform_decide_which_form_is_taken(
  max_levels, weights, bins, on_cpu, elsewhere
):
  assert soft_forms.form("cpu", max_levels, weights, bins) == on_cpu
  assert soft_forms.form("accelerator", max_levels, weights, bins) == elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("max_levels", [2, 4, 16, 256])
def test_the_platform_that_a_program_is_lowered_for_decides(max_levels):
  """Whatever traces it: elsewhere one kernel for up to 16 levels."""

  def loss(x, centers):
    codebook = Codebook(centers, jnp.int32(max_levels))
    return jnp.sum(soft_quantize(x, codebook) ** 2)

  def lowered(platform):
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    exported = jax.export.export(gradients, platforms=[platform])(
      jax.ShapeDtypeStruct((100_000,), jnp.float32),
      jax.ShapeDtypeStruct((max_levels,), jnp.float32),
    )
    text = exported.mlir_module()
    reductions = re.findall(r"stablehlo\.reduce\(.*tensor<100000xf32>", text)
    return "stablehlo.scatter" in text, len(reductions)

  for platform in ("cuda", "tpu"):
    scatters, reductions = lowered(platform)
    assert scatters == (max_levels == 256)
    if max_levels <= 16:
      # As many as XLA puts into one kernel.
      assert 0 < reductions <= 8
  assert lowered("cpu")[0] == (max_levels > 2)
