"""FedAvg with fine-tuning: FedAvg, then adaptation before use.

Training is FedAvg's, with all of its settings. Only the models on which a
client is evaluated differ: its personalized model is the global one after some
steps on its own training data, by a fresh optimizer. It is made anew for each
evaluation and then discarded; nothing of it is sent or kept. Down: the global
model w. Up: the difference after the local steps.

Quantized clients take alternating steps from w, with the levels that stay with
them; their quantized model is the adapted one at the levels that these steps
lead to.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; that of the server's
optimizer stays at the server.

The gradient evaluations of a round are those of training. Whoever uses the
adapted model takes `adapt_steps` steps more, once.

References:
  McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient
  Learning of Deep Networks from Decentralized Data, 2017.
  Oh, Kim, Yun, FedBABU: Toward Enhanced Representation for Federated Image
  Classification, 2022 (Section 5.2 fine-tunes the head, the body, or both).
"""

import dataclasses
from typing import ClassVar

from quped_jax.methods import api
from quped_jax.methods.blocks import adapt
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.fedavg import FedavgOptions, make_fedavg


@dataclasses.dataclass(frozen=True)
class FedavgFtOptions(FedavgOptions, adapt.AdaptationOptions):
  """Settings of FedAvg, and of the adaptation."""

  method: ClassVar[str] = "fedavg_ft"

  def __post_init__(self):
    FedavgOptions.__post_init__(self)
    adapt.AdaptationOptions.__post_init__(self)


def make_fedavg_ft(
  models: api.Models,
  training: Training,
  options: FedavgFtOptions,
) -> api.FederatedMethod:
  """Makes FedAvg with fine-tuning.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without the part that is to be adapted.
  """
  method = make_fedavg(models, training, options)
  return adapt.with_adaptation(method, models.shared, training, options)
