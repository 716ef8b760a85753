"""FedProx with fine-tuning: FedProx, then adaptation before use.

Training is FedProx's, with all of its settings. Each client's personalized
model is the global one after some steps on its own training data, on the labels
alone: nothing holds the adapted model near the global one. It is made anew for
each evaluation and then discarded. Down: the global model w. Up: the difference
after the local steps.

Quantized clients take alternating steps from w, with the levels that stay with
them; their quantized model is the adapted one at the levels that these steps
lead to.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated Optimization in
  Heterogeneous Networks, 2020.
  Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for
  Personalized Federated Learning, 2021 (compares with it).
"""

import dataclasses
from typing import ClassVar

from quped_jax.methods import api
from quped_jax.methods.blocks import adapt
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.fedprox import FedproxOptions, make_fedprox


@dataclasses.dataclass(frozen=True)
class FedproxFtOptions(FedproxOptions, adapt.AdaptationOptions):
  """Settings of FedProx, and of the adaptation."""

  method: ClassVar[str] = "fedprox_ft"

  def __post_init__(self):
    FedproxOptions.__post_init__(self)
    adapt.AdaptationOptions.__post_init__(self)


def make_fedprox_ft(
  models: api.Models,
  training: Training,
  options: FedproxFtOptions,
) -> api.FederatedMethod:
  """Makes FedProx with fine-tuning.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without the part that is to be adapted.
  """
  method = make_fedprox(models, training, options)
  return adapt.with_adaptation(method, models.shared, training, options)
