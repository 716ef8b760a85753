"""The forms in which the soft quantizer is computed, and their choice.

"dense" sums all steps, one after the other, each over all weights; "together"
has a kernel for the value and one for each gradient. "table" sums all steps of
a few points, bins or weights, at once. "windowed" sums over a window of steps
around each weight. For which platform JAX lowers a program decides
its form (`form`), not on which machine it is traced.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.quantization import (
  levels_in_use,
  soft_bins,
  soft_steps,
  soft_together,
  soft_window,
)
from quped_jax.quantization.codebook import Codebook

# Up to this number of levels, all steps are summed. On an H200, the value and
# both gradients of 1.6 million weights with 16 levels take 0.124 ms, against
# 0.263 by bins.
_ALL_STEPS = {"cpu": 4, "accelerator": 16}
# Up to this number of steps of all bins, they are computed in a table: 0.1 ms
# on a CPU. Of weights, a CPU computes windows faster unless they are very few:
# with 4096 weights and 16 levels a step of QuPeD takes 0.20 ms, and 0.33 by a
# table.
_TABLE = 2**17
_TABLE_OF_WEIGHTS = {"cpu": 2**13, "accelerator": 2**17}


def form(platform: str, levels: int, weights: int, bins: int = 0) -> str:
  """The fastest form: "dense", "together", "table" or "windowed".

  Args:
    platform: "cpu" or "accelerator".
    levels: how many levels a codebook may have.
    weights: how many there are.
    bins: for how many bins in their place steps are summed; 0 for none.
  """
  if levels <= _ALL_STEPS[platform]:
    return "dense" if platform == "cpu" else "together"
  if bins:
    small = bins * levels <= _TABLE
  else:
    small = weights * levels <= _TABLE_OF_WEIGHTS[platform]
  return "table" if small else "windowed"


class Steps(NamedTuple):
  """What is static of a sum over steps.

  Attributes:
    sharpness: of the steps, in gaps, if it is a number, from which the number
      of bins follows; None for no bins.
    deterministic: see `level_sums.form`, of the gradients.
    mixed: see `Codebook`.
  """

  sharpness: float | None
  deterministic: bool
  mixed: bool = False


def _chosen(
  steps: Steps,
  of_form: Callable[..., Any],
  none: Callable[..., Any],
  x: jax.Array,
  centers: jax.Array,
  levels: jax.Array,
  *args: Any,
) -> Any:
  """What the fastest form gives, on the platform and for the levels in use.

  Args:
    steps: what is static.
    of_form: `(form, bins) -> (x, centers, levels, *args) -> results`; the
      centers may be fewer than `max_levels`.
    none: `(x, centers, levels, *args) -> results` in full precision.
    x: weights.
    centers: the levels, `[max_levels]`.
    levels: how many of them are valid.
    *args: further ones.
  """
  max_levels = centers.shape[0]

  def on(platform, room):
    bins = 0
    if steps.sharpness is not None:
      bins = soft_bins.bin_count(room, steps.sharpness, x.size)
    return form(platform, room, x.size, bins), bins

  def few(x, centers, *args):
    small = on("cpu", levels_in_use.FEW)
    return of_form(*small)(x, centers[: levels_in_use.FEW], *args)

  on_cpu, elsewhere = on("cpu", max_levels), on("accelerator", max_levels)
  many = of_form(*on_cpu)
  branches = levels_in_use.Branches(
    none=none,
    few=few,
    many=many,
    otherwise=many if elsewhere == on_cpu else of_form(*elsewhere),
  )
  codebook = Codebook(centers, levels, mixed=steps.mixed)
  given = x, centers, levels, *args
  return levels_in_use.branch(codebook, x.size, branches, *given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def stepped(steps, x, centers, levels, slope):
  """The sum over the steps, in the form that is fastest on the platform.

  Args:
    steps: what is static.
    x: weights, any shape.
    centers: the levels, `[max_levels]`, of the dtype of x.
    levels: how many of them are valid.
    slope: P, the slope of the steps.

  Returns:
    Quantized weights, of the shape of x; in full precision anything.
  """
  return _stepped_fwd(steps, x, centers, levels, slope)[0]


def _stepped_fwd(steps, x, centers, levels, slope):

  def of_form(name, bins):
    def value(x, centers, levels, slope):
      if name == "windowed":
        return soft_window.value(bins, x, centers, levels, slope)
      if name == "table":
        return soft_steps.table_value(bins, x, centers, slope), jnp.int32(0)
      if name == "together":
        return soft_together.value(x, centers, slope), jnp.int32(0)
      return soft_steps.dense_value(x, centers, slope), jnp.int32(0)

    return value

  def none(x, *_):
    return x, jnp.int32(0)

  soft, width = _chosen(steps, of_form, none, x, centers, levels, slope)
  return soft, (x, centers, levels, slope, width)


def _stepped_bwd(steps, residuals, cotangent):
  x, centers, levels, slope, width = residuals
  max_levels = centers.shape[0]

  def of_form(name, bins):
    def gradients(x, centers, levels, cotangent, slope, width):
      given = x, cotangent, centers
      if name == "windowed":
        to_x, gradient = soft_window.gradients(
          bins, steps.deterministic, *given, levels, slope, width
        )
      elif name == "table":
        to_x, gradient = soft_steps.table_gradients(
          bins, steps.deterministic, *given, slope
        )
      elif name == "together":
        to_x, gradient = soft_together.gradients(*given, slope)
      else:
        to_x, gradient = soft_steps.dense_gradients(bins, *given, slope)
      return to_x, levels_in_use.widened(gradient, max_levels)

    return gradients

  def none(x, centers, *_):
    return jnp.zeros_like(x), jnp.zeros_like(centers)

  to_x, gradient = _chosen(
    steps, of_form, none, x, centers, levels, cotangent, slope, width
  )
  return to_x, gradient, None, jnp.zeros_like(slope)


stepped.defvjp(_stepped_fwd, _stepped_bwd)
