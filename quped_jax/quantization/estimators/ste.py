r"""The straight-through estimator.

The network runs at the nearest levels, and the gradient that is taken there
goes to the latent weights u as it is:

.. math:: m(u) = Q_c(u), \quad \frac{\partial m}{\partial u} = 1

The levels follow the weights, by a rule that fits them, or stay where they
began; see `latent.following`.

References:
  Bengio, Leonard, Courville, Estimating or Propagating Gradients Through
  Stochastic Neurons for Conditional Computation, 2013.
  Courbariaux, Bengio, David, BinaryConnect: Training Deep Neural Networks with
  binary weights during propagations, 2015.
"""

from quped_jax.quantization.codebook import hard_quantize
from quped_jax.quantization.latent import Estimator, following
from quped_jax.quantization.straight_through import straight_through


def make_ste(rule: str) -> Estimator:
  """Makes the straight-through estimator.

  Args:
    rule: by which the levels follow the weights.
  """

  def at_levels(u, codebook, numbers, rates):
    del numbers, rates
    return straight_through(u, hard_quantize(u, codebook))

  return Estimator(at_levels, follow=following(rule))
