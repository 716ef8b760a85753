"""The soft quantizer's sum over all steps, in the form for accelerators.

An accelerator spends its time on moving weights, not on sigmoids. With up to 16
levels, XLA makes one kernel of the value, and another of the gradients of the
weights and of all levels, each of which reads every weight once. It would
otherwise compute the sigmoids that they have in common once, and keep them in
memory, an array for each step; the barriers tell it not to.
"""

import jax
import jax.numpy as jnp

from quped_jax.quantization import level_sums

# So many reductions XLA puts into one kernel.
_REDUCTIONS = 8


def _shares(x, centers, slope):
  """The share that each weight has climbed of each step, from below."""
  # The middles are one array, of which kernels read what they need: a kernel
  # takes so many arguments, and no more.
  middles = centers[:-1] / 2 + centers[1:] / 2
  middles, slope = jax.lax.optimization_barrier((middles, slope))
  return [
    jax.nn.sigmoid(slope * (x - middles[k])) for k in range(middles.shape[0])
  ]


def value(x, centers, slope):
  """`soft_steps.dense_value`, of the same arguments."""
  gaps = jax.lax.optimization_barrier(jnp.diff(centers))
  soft = jnp.broadcast_to(centers[0], x.shape)
  for k, share in enumerate(_shares(x, centers, slope)):
    soft += gaps[k] * share
  return soft


def _sums(terms):
  """The sum of each array, `[len(terms)]`, all in one kernel.

  A single reduction of many arrays would not do: XLA keeps in memory what they
  have in common.
  """
  size = -(-len(terms) // _REDUCTIONS)
  return jnp.concatenate(
    [
      level_sums.sum_together(terms[k : k + size])
      for k in range(0, len(terms), size)
    ]
  )


def gradients(x, cotangent, centers, slope):
  r"""The gradients of `value`, as `soft_steps.dense_gradients` without bins.

  With :math:`s_k` the share that a weight has climbed of the step above level
  k, whose height is :math:`h_k`, and g the cotangents, level k gets

  .. math::
    \sum_x g (s_{k-1} - s_k) - \frac P2 \sum_x g (h_{k-1} s_{k-1} (1 - s_{k-1})
      + h_k s_k (1 - s_k)),

  where all have climbed what is below the first level, and nobody what is above
  the last. The shares are subtracted before they are summed: their sums are
  large and nearly the same.
  """
  gaps = jax.lax.optimization_barrier(jnp.diff(centers))
  x = jax.lax.optimization_barrier(x)
  derivative = jnp.zeros_like(x)
  for k, share in enumerate(_shares(x, centers, slope)):
    derivative += gaps[k] * share * (1 - share)
  to_x = slope * cotangent * derivative

  x = jax.lax.optimization_barrier(x)
  bends = jax.lax.optimization_barrier(slope / 2 * gaps)
  below, bent_below, terms = jnp.ones_like(x), 0.0, []
  for k, share in enumerate(_shares(x, centers, slope)):
    bent = bends[k] * share * (1 - share)
    terms.append(cotangent * (below - share - bent_below - bent))
    below, bent_below = share, bent
  terms.append(cotangent * (below - bent_below))
  return to_x, _sums(terms)
