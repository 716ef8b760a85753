r"""FML, federated mutual learning: own models and copies of a shared one.

Every client has its own model, of any architecture, and a copy of the shared
model; on every batch each learns from the labels and from the other,

.. math::
  L_{own} &= \alpha \, CE + (1 - \alpha) \, T^2 KL(shared \,\|\, own) \\
  L_{shared} &= \beta \, CE + (1 - \beta) \, T^2 KL(own \,\|\, shared),

with the other's logits held constant. alpha = beta = 1 is local training
alongside FedAvg.

Down: the shared model. Up: the difference of the copy, which has full
precision. The server takes the mean, by default uniform as in the paper. A
quantized own model learns by alternating steps and teaches in its quantized
form.

Optimizer states: those of the own model's weights and levels stay with the
client; that of the copy starts afresh each round.

References:
  Shen, Zhang, Jia, Zhang, Huang, Zhou, Kuang, Wu, Wu, Federated Mutual
  Learning, 2020.
"""

import dataclasses
import functools

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import mutual
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FmlOptions:
  """Settings of FML.

  Attributes:
    alpha: weight of the loss on labels for a client's own model, in [0, 1];
      distillation from the shared model has weight 1 - alpha.
    beta: weight of the loss on labels for the shared model, in [0, 1];
      distillation from the client's own model has weight 1 - beta.
    temperature: T, by which logits are divided.
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  alpha: float = api.traced(0.5)
  beta: float = api.traced(0.5)
  temperature: float = api.traced(1.0)
  weighting: str = "uniform"

  def __post_init__(self):
    checks.unit_interval("fml.alpha", self.alpha)
    checks.unit_interval("fml.beta", self.beta)
    checks.positive("fml.temperature", self.temperature)
    checks.choice("fml.weighting", self.weighting, api.WEIGHTINGS)


def make_fml(
  models: api.Models,
  training: Training,
  options: FmlOptions,
) -> api.FederatedMethod:
  """Makes FML.

  Args:
    models: the networks of the shared model and of each cohort, of any
      architectures.
    training: how clients train.
    options: the method's own settings.
  """

  def mutual_loss(logits, teacher, labels, share):
    from_labels = training.loss(logits, labels)
    taught = training.divergence(teacher, logits, options.temperature)
    return share * from_labels + (1 - share) * taught

  return mutual.mutual_method(
    models,
    training,
    own_loss=functools.partial(mutual_loss, share=options.alpha),
    shared_loss=functools.partial(mutual_loss, share=options.beta),
    weighting=options.weighting,
  )
