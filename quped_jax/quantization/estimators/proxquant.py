r"""ProxQuant: a proximal map after every step of the optimizer.

There are no latent weights: the network runs at u itself, m(u) = u, and

.. math::
  u \leftarrow \mathrm{prox}_{\eta \lambda R(\cdot, c)} (\text{optimizer}(u))

with R the distance of the weights to their nearest levels (`proximal.py`). It
is QuPeD's Algorithm 1 without the loss of the quantized model and with levels
that stay where they began, until the fine-tuning phase.

The authors' recipe for one bit is levels of -1 and 1 (`outer_level=1`), weights
clipped to these (`weight_clip=1`), the norm l1, a strength of 1e-4 times the
epoch (`strength_ramp`, which begins with 1e-4, not 0), and frozen levels from
two thirds of the epochs on (`finetune_at`, with
`finetune_centers_learning_rate=0`). Their ternary map is that of our norm l2 at
half the strength.

References:
  Bai, Wang, Liberty, ProxQuant: Quantized Neural Networks via Proximal
  Operators, 2019.
"""

from quped_jax.quantization import transforms
from quped_jax.quantization.latent import Estimator


def make_proxquant(norm: str) -> Estimator:
  """Makes ProxQuant.

  Args:
    norm: of the regularizer, "l1" or "l2".
  """

  def at_weights(u, codebook, numbers, rates):
    del codebook, numbers, rates
    return u

  return Estimator(at_weights, pull=transforms.prox_quantize(norm=norm))
