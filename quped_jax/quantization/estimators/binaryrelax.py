r"""BinaryRelax: weights that are drawn to their levels more and more.

.. math::
  m(u) = \frac{r \, Q_c(u) + u}{1 + r}, \quad \frac{\partial m}{\partial u} = 1

The weight r of the levels grows by a constant factor per round, from
`relax_start` to `relax_growth` times as much; then m = Q_c(u). r = 0 is
training in full precision, r = infinity the straight-through estimator. The
levels follow the weights, or stay; see `latent.following`.

Different from the authors' code: there r grows by a factor per epoch, whatever
the number of epochs (1 and 1.04 with 200 epochs, of which the last quarter is
at the levels: 350 = 1.04^150); here by one over the whole training.

References:
  Yin, Zhang, Lyu, Osher, Qi, Xin, BinaryRelax: A Relaxation Approach for
  Training Deep Neural Networks with Quantized Weights, 2018.
"""

from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.quantization.annealing import Annealing
from quped_jax.quantization.codebook import Codebook, hard_quantize
from quped_jax.quantization.latent import Estimator, following
from quped_jax.quantization.straight_through import straight_through


def share_of_levels(annealing: Annealing, progress: Any) -> jax.Array:
  """r / (1 + r), float `[]`: 1 from the end of the annealing on.

  Args:
    annealing: when it begins and ends.
    progress: the share of the training that is done.
  """
  done = annealing.done(progress)
  weight = annealing.relax_start * annealing.relax_growth**done
  # Written so that a weight of infinity is no NaN.
  share = jnp.where(done < 1, 1 / (1 + 1 / weight), 1.0)
  # Before it begins, weights are free.
  return jnp.where(progress < annealing.anneal_start, 0.0, share)


def relaxed(
  u: jax.Array, codebook: Codebook, share: float | jax.Array
) -> jax.Array:
  """Weights on their way to their nearest levels.

  Args:
    u: weights, any shape.
    codebook: the levels.
    share: of the way, 0 for u itself, 1 for the levels.
  """
  return u * (1 - share) + hard_quantize(u, codebook) * share


def make_binaryrelax(rule: str, annealing: Annealing) -> Estimator:
  """Makes BinaryRelax.

  Args:
    rule: by which the levels follow the weights.
    annealing: how r grows.
  """

  def between(u, codebook, numbers, rates):
    del numbers
    share = share_of_levels(annealing, rates.progress)
    return straight_through(u, relaxed(u, codebook, share).astype(u.dtype))

  return Estimator(between, follow=following(rule))
