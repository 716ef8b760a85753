"""The forms in which the soft quantizer is computed, and their choice.

"dense" sums all steps, one after the other; "together" does so too, and takes
the gradients of all levels by one reduction, without bins. "table" sums all
steps of a few points, bins or weights, at once. "windowed" sums over a window
of steps around each weight. For which platform JAX lowers a program decides
its form (`form`), not on which machine it is traced.
"""

import functools

import jax
import jax.numpy as jnp

from quped_jax.quantization import soft_steps, soft_window

# Up to this number of levels, all steps are summed. On an H200, the value and
# both gradients of 1.6 million weights with 16 levels take 0.124 ms, against
# 0.263 by bins.
_ALL_STEPS = {"cpu": 4, "accelerator": 16}
# Up to this number of steps of all points, they are computed in a table: 0.1 ms
# on a CPU.
_TABLE = 2**17


def form(platform: str, levels: int, points: int) -> str:
  """The fastest form: "dense", "together", "table" or "windowed".

  Args:
    platform: "cpu" or "accelerator".
    levels: how many levels a codebook may have.
    points: for how many weights, or bins in their place, steps are summed.
  """
  if levels <= _ALL_STEPS[platform]:
    return "dense" if platform == "cpu" else "together"
  return "table" if points * levels <= _TABLE else "windowed"


def _by_platform(forms, levels, points, *args):
  on_cpu = forms[form("cpu", levels, points)]
  elsewhere = forms[form("accelerator", levels, points)]
  if on_cpu is elsewhere:
    return on_cpu(*args)
  return jax.lax.platform_dependent(*args, cpu=on_cpu, default=elsewhere)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def stepped(bins, deterministic, x, centers, levels, slope):
  """The sum over the steps, in the form that is fastest on the platform.

  Args:
    bins: how many bins the forms "table" and "windowed", and the gradients,
      take; 0 for none.
    deterministic: see `level_sums.form`, of the gradients.
    x: weights, any shape.
    centers: the levels, `[max_levels]`, of the dtype of x.
    levels: how many of them are valid.
    slope: P, the slope of the steps.

  Returns:
    Quantized weights, of the shape of x.
  """
  return _stepped_fwd(bins, deterministic, x, centers, levels, slope)[0]


def _stepped_fwd(bins, deterministic, x, centers, levels, slope):
  del deterministic

  def dense(x, centers, levels, slope):
    del levels
    return soft_steps.dense_value(x, centers, slope), jnp.int32(0)

  def table(x, centers, levels, slope):
    del levels
    return soft_steps.table_value(bins, x, centers, slope), jnp.int32(0)

  forms = {
    "dense": dense,
    "together": dense,
    "table": table,
    "windowed": functools.partial(soft_window.value, bins),
  }
  sizes = centers.shape[0], bins or x.size
  soft, width = _by_platform(forms, *sizes, x, centers, levels, slope)
  return soft, (x, centers, levels, slope, width)


def _stepped_bwd(bins, deterministic, residuals, cotangent):
  def dense(bins, together, x, cotangent, centers, levels, slope, width):
    del levels, width
    return soft_steps.dense_gradients(
      bins, x, cotangent, centers, slope, together=together
    )

  def table(x, cotangent, centers, levels, slope, width):
    del levels, width
    return soft_steps.table_gradients(
      bins, deterministic, x, cotangent, centers, slope
    )

  forms = {
    "dense": functools.partial(dense, bins, False),
    "together": functools.partial(dense, 0, True),
    "table": table,
    "windowed": functools.partial(soft_window.gradients, bins, deterministic),
  }
  x, centers, levels, slope, width = residuals
  sizes = centers.shape[0], bins or x.size
  to_x, gradient = _by_platform(
    forms, *sizes, x, cotangent, centers, levels, slope, width
  )
  return to_x, gradient, None, jnp.zeros_like(slope)


stepped.defvjp(_stepped_fwd, _stepped_bwd)
