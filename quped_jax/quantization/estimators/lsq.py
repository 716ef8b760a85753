r"""LSQ: learned step size quantization.

Levels are multiples s k of a step size s, for :math:`-m/2 \le k \le p`, with
m levels and :math:`p = m/2 - 1`. With v = u / s,

.. math:: m(u) = s \, \mathrm{round}(\mathrm{clip}(v, -m/2, p)) = Q_c(u)

The gradient reaches the latent weights straight through where v is inside of
the bounds, and nowhere else. The step size is trained too, by the optimizer of
the levels:

.. math::
  \frac{\partial m}{\partial s} = \frac{1}{\sqrt{n p}} \begin{cases}
    \mathrm{round}(v) - v & \text{inside} \\
    -m/2 \text{ or } p & \text{beyond a bound}
  \end{cases}

where n is the number of weights of the tensor, or of the channel. With one bit
p would be 0: the levels are then plus and minus s, the bounds -1 and 1, and p
counts as 1. s stays positive.

A tie between two levels goes to the lower one, as everywhere in this library;
in LSQ to the even one. In the fine-tuning phase s trains on, with the frozen
weights' own gradient.

References:
  Esser, McKinstry, Bablani, Appuswamy, Modha, Learned Step Size Quantization,
  2020. Checked against code by others (zhutmost/lsq-net).
"""

import math

import jax
import jax.numpy as jnp

from quped_jax.quantization import level_rules
from quped_jax.quantization.codebook import Codebook, hard_quantize
from quped_jax.quantization.latent import Estimator
from quped_jax.quantization.straight_through import straight_through
from quped_jax.quantization.trained_levels import STEP_SIZE


def at_steps(u: jax.Array, codebook: Codebook, step: jax.Array) -> jax.Array:
  """m(u), with the gradients of LSQ to the weights and to the step size.

  Args:
    u: weights, any shape.
    codebook: levels that are multiples of the step.
    step: s, `[]`, or `[channels]` with a codebook for each.
  """
  if codebook.centers.ndim > 1:
    return jax.vmap(at_steps, in_axes=(-1, 0, 0), out_axes=-1)(
      u, codebook, step
    )
  value = jax.lax.stop_gradient(hard_quantize(u, codebook))
  grid = level_rules.lsq_grid(codebook.levels, codebook.max_levels)
  low, high = grid[0], jnp.where(codebook.levels == 2, 1, -grid[0] - 1)
  # In full precision there is no step, and its gradient is never used.
  safe = jax.lax.stop_gradient(jnp.where(step > 0, step, 1))
  v = jax.lax.stop_gradient(u) / safe
  inside = (low < v) & (v < high)
  slope = jnp.where(inside, value / safe - v, jnp.where(v > 0, high, low))
  factor = jax.lax.rsqrt(jnp.maximum(high, 1).astype(u.dtype))
  slope = slope * factor / math.sqrt(u.size)
  return straight_through(jnp.where(inside, u, 0) + step * slope, value)


def make_lsq() -> Estimator:
  """Makes LSQ."""

  def at_levels(u, codebook, numbers, rates):
    del rates
    return at_steps(u, codebook, numbers)

  return Estimator(at_levels, levels=STEP_SIZE)
