r"""The soft quantizer: differentiable in the weights and in the levels.

.. math::
  \tilde Q_c(x) = c_1 + \sum_{k=2}^m (c_k - c_{k-1})
    \, \sigma(P (x - (c_k + c_{k-1}) / 2))

With few levels, up to four on CPU and 16 elsewhere, all steps are summed; with
more, a weight's sum runs over a window of steps around it (`soft_forms.py`).
Where weights are many, sums are then taken at evenly spaced bins alone, and
each weight interpolates between two of them (`soft_bins.py`).

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (section 2).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree, soft_forms
from quped_jax.quantization.codebook import Codebook
from quped_jax.typing import Codebooks, Number, Tree

SHARPNESS_UNITS = ("gap", "absolute")


def check_sharpness(sharpness: Any, unit: str) -> None:
  """Raises a ValueError unless both are valid."""
  checks.choice("sharpness_unit", unit, SHARPNESS_UNITS)
  if not codebook_lib.is_traced(sharpness) and not np.all(
    np.asarray(sharpness) > 0
  ):
    raise ValueError(f"sharpness={sharpness}: must be positive")


def steepness(
  codebook: Codebook, sharpness: float | jax.Array, unit: str = "gap"
) -> jax.Array:
  r"""The slope P of the soft quantizer's sigmoids, without gradient.

  .. math:: P = \mathrm{sharpness} / \frac{c_m - c_1}{m - 1}

  Args:
    codebook: the levels, of one tensor or channel.
    sharpness: in units of the mean gap between levels, or absolute.
    unit: "gap" or "absolute" (the paper's reading).

  Raises:
    ValueError: unknown unit, or a sharpness that is not positive.
  """
  check_sharpness(sharpness, unit)
  if unit == "absolute":
    return jnp.asarray(sharpness, codebook.centers.dtype)
  return sharpness / codebook_lib.mean_gap(codebook)


@codebook_lib.channelwise
def soft_quantize(
  x: jax.Array,
  codebook: Codebook,
  sharpness: Number = 10.0,
  *,
  unit: str = "gap",
  deterministic: bool = False,
) -> jax.Array:
  r"""A differentiable quantizer, :math:`\tilde Q_c(x)`.

  .. math::
    \tilde Q_c(x) = c_1 + \sum_{k=2}^m (c_k - c_{k-1})
      \, \sigma(P (x - (c_k + c_{k-1}) / 2))

  It tends to `hard_quantize` as the sharpness grows, and is differentiable in
  x and in the centers (P carries no gradient). In full precision x is returned.

  On CPU, with up to four levels all steps are summed; with more, those in a
  window around each weight, which widens as far as uneven levels or a low
  sharpness require: an absolute sharpness that is high for 1 bit is low for 8,
  and costs accordingly. With more than four levels, many weights (at the
  default sharpness from 4 400 at 4 bits and 62 000 at 8) and a sharpness in
  gaps that is a number, not traced, each weight interpolates between bins. The
  result agrees with the full sum to 1e-3 of the mean gap plus 1e-4 of the
  largest; the derivative to 1e-3 of its largest value; what a weight
  contributes to the gradient of a level to 1e-3.

  On accelerators all steps are summed up to 16 levels, without bins.

  Passes over the weights: one for the value and one for the gradient of x,
  each with a few sigmoids or two lookups. The gradient of the levels takes two
  sums with two levels; with more, where weights are many, three passes that
  prepare and two that scatter; on accelerators, up to 16 levels, one pass. For
  the gradients only x is kept.

  Args:
    x: weights, any shape.
    codebook: the levels.
    sharpness: slope of the steps, in the `unit`.
    unit: "gap": per mean distance between levels; "absolute": per unit of x.
    deterministic: whether gradients must be the same bit for bit in every run
      on an accelerator too, which takes longer with more than 16 levels.

  Returns:
    An array of the shape of x.

  Raises:
    ValueError: unknown unit, or a sharpness that is not positive.

  Examples:
    >>> codebook = qj.Codebook(jnp.array([-1.0, 1.0]), jnp.int32(2))
    >>> x = jnp.array([-4.0, 0.0, 4.0])
    >>> print(qj.soft_quantize(x, codebook).round(3))
    [-1.  0.  1.]
    >>> grads = jax.grad(lambda x: qj.soft_quantize(x, codebook).sum())(x)
    >>> bool(grads[1] > 1)  # where it is steep, between the levels
    True

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (section 2).
  """
  codebook = codebook.in_room()
  if not codebook.max_levels:
    return x
  slope = steepness(codebook, sharpness, unit)
  dtype = jnp.result_type(x, codebook.centers)
  weights = x.astype(dtype)
  centers = codebook_lib.view_centers(codebook).astype(dtype)
  slope = slope.astype(dtype)
  in_gaps = None
  if unit == "gap" and not codebook_lib.is_traced(sharpness):
    in_gaps = float(sharpness)
  steps = soft_forms.Steps(in_gaps, deterministic, codebook.mixed)
  soft: jax.Array = soft_forms.stepped(
    steps, weights, centers, codebook.levels, slope
  )
  return jnp.where(codebook.levels > 0, soft.astype(x.dtype), x)


def soft_quantize_tree(
  params: Tree,
  codebooks: Codebooks,
  sharpness: Number = 10.0,
  *,
  unit: str = "gap",
  deterministic: bool = False,
) -> Tree:
  """Applies the soft quantizer to every tensor that has a codebook.

  Args:
    params: a tree of parameters.
    codebooks: a tree of codebooks over it, as `init_codebooks` makes it.
    sharpness: see `soft_quantize`, as are all that follow.
    unit: likewise.
    deterministic: likewise.

  Returns:
    A tree like params; tensors without a codebook, and those in full precision,
    are as they were.

  Raises:
    ValueError: as in `soft_quantize`.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> soft = qj.soft_quantize_tree(params, codebooks, sharpness=1000.0)
    >>> print(soft["kernel"])
    [-0.75 -0.75  0.75  0.75]
  """
  return codebook_tree.map_codebooks(
    lambda codebook, x: soft_quantize(
      x, codebook, sharpness, unit=unit, deterministic=deterministic
    ),
    codebooks,
    params,
    otherwise=lambda x: x,
  )
