r"""PARQ: piecewise-affine regularized quantization.

Between neighbouring levels lo and hi, with c in the middle,

.. math::
  m(u) = \mathrm{clip}\Bigl(c + \frac{u - c}{\rho}, lo, hi\Bigr), \quad
  \frac{\partial m}{\partial u} = 1

Beyond the outer levels, m(u) is the outer level. The slope 1 / rho grows from
1, where m is the identity up to the outer levels, to infinity, where it is
Q_c(u). With t from 0 to 1 over the annealing and S the steepness

.. math::
  \rho = \frac{g(t) - g(1)}{g(0) - g(1)}, \quad
  g(t) = \frac{1}{1 + \exp(S (t - 1/2))}

The levels follow the weights, or stay; see `latent.following`. The authors'
code fits them in every tenth step, this in every one. There t goes by steps,
here by rounds; and there the middle of g may be chosen, which breaks its ends.

References:
  Jin, Ma, Liu, Lee, PARQ: Piecewise-Affine Regularized Quantization, 2025.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.annealing import Annealing
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.latent import Estimator, following
from quped_jax.quantization.straight_through import straight_through

_TINY = 1e-30


def inverse_slope(annealing: Annealing, progress: Any) -> jax.Array:
  """rho, float `[]`: 1 before the annealing, 0 from its end on.

  Args:
    annealing: when it begins and ends.
    progress: the share of the training that is done.
  """
  done = annealing.done(progress)
  steepness = annealing.parq_steepness
  first = 1 / (1 + math.exp(-steepness / 2))
  last = 1 - first
  now = jax.nn.sigmoid(-steepness * (done - 0.5))
  rho = jnp.clip((now - last) / (first - last), 0, 1)
  return jnp.where(done < 1, jnp.where(done > 0, rho, 1.0), 0.0)


@codebook_lib.channelwise
def piecewise_affine(
  u: jax.Array, codebook: Codebook, rho: float | jax.Array
) -> jax.Array:
  """The map m between levels.

  Args:
    u: weights, any shape.
    codebook: the levels; in full precision any value is returned.
    rho: the inverse slope, from 1 to 0.
  """
  own = codebook_lib.nearest(u, codebook)
  level = codebook_lib.look_up(own, codebook)
  # The level below a weight, -1 if there is none.
  below = own - (u < level)
  last = jnp.maximum(codebook.levels - 1, 0)
  low = codebook_lib.look_up(jnp.maximum(below, 0), codebook)
  high = codebook_lib.look_up(jnp.minimum(below + 1, last), codebook)
  middle = 0.5 * low + 0.5 * high
  steep = middle + (u - middle) / jnp.maximum(rho, _TINY)
  between = jnp.clip(steep, low, high)
  hard = codebook_lib.hard_quantize(u, codebook)
  return jnp.where(rho > 0, between, hard).astype(u.dtype)


def make_parq(rule: str, annealing: Annealing) -> Estimator:
  """Makes PARQ.

  Args:
    rule: by which the levels follow the weights.
    annealing: how rho goes from 1 to 0.
  """

  def between(u, codebook, numbers, rates):
    del numbers
    rho = inverse_slope(annealing, rates.progress)
    return straight_through(u, piecewise_affine(u, codebook, rho))

  return Estimator(between, follow=following(rule))
