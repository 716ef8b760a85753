r"""FedKD: a large mentor stays with the client, a small mentee travels.

Mentor and mentee learn from the labels and, adaptively, from each other: the
larger their losses on the labels, the less their divergence counts,

.. math::
  L_{mentor} &= CE_{mentor}
    + \frac{KL(mentee \,\|\, mentor)}{CE_{mentor} + CE_{mentee}} \\
  L_{mentee} &= CE_{mentee}
    + \frac{KL(mentor \,\|\, mentee)}{CE_{mentor} + CE_{mentee}}.

Each loss is differentiated with respect to its own model only; the other's
logits and the divisor are held constant, so that the divisor is a mere weight
and large losses are not rewarded. (The released code differentiates the sum of
both losses with respect to both models.)

Down: the mentee, which is the global model. Up: its difference. The mentor may
be quantized: it then learns by alternating steps, with a divisor of its own for
each view, and teaches in its quantized form. The mentee has full precision.

Left out: the loss on hidden states and attentions, which needs matching layers
in both models, and the compression of the mentee's updates by truncated
singular value decomposition.

Optimizer states: those of the mentor's weights and levels stay with the client;
that of the mentee starts afresh each round.

References:
  Wu, Wu, Lyu, Huang, Xie, Communication-Efficient Federated Learning via
  Knowledge Distillation, 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import mutual
from quped_jax.methods.blocks.training import Training

# Both losses are near zero if both models have memorized a batch.
_SMALLEST_DIVISOR = 1e-6


@dataclasses.dataclass(frozen=True)
class FedkdOptions:
  """Settings of FedKD.

  Attributes:
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  weighting: str = "samples"

  def __post_init__(self):
    checks.choice("fedkd.weighting", self.weighting, api.WEIGHTINGS)


def make_fedkd(
  models: api.Models,
  training: Training,
  options: FedkdOptions,
) -> api.FederatedMethod:
  """Makes FedKD.

  Args:
    models: `shared` is the mentee's network, `clients` are the mentors', of
      any architectures.
    training: how clients train.
    options: the method's own settings.
  """

  def adaptive_loss(logits, teacher, labels):
    own = training.loss(logits, labels)
    both = jax.lax.stop_gradient(own) + training.loss(teacher, labels)
    taught = training.divergence(teacher, logits)
    return own + taught / jnp.maximum(both, _SMALLEST_DIVISOR)

  return mutual.mutual_method(
    models,
    training,
    own_loss=adaptive_loss,
    shared_loss=adaptive_loss,
    weighting=options.weighting,
  )
