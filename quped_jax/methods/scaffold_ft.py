"""SCAFFOLD with fine-tuning: SCAFFOLD, then adaptation before use.

Training is SCAFFOLD's, with all of its settings. Each client's personalized
model is the global one after some steps on its own training data, without the
control variates: these steps are meant to drift. It is made anew for each
evaluation and then discarded. Down: the global model w and the control c. Up:
their differences.

Quantized clients take alternating steps from w, with the levels that stay with
them; their quantized model is the adapted one at the levels that these steps
lead to.

Optimizer states: that of the weights starts afresh each round (plain SGD has
none that matters); that of the levels stays with the client.

References:
  Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, SCAFFOLD: Stochastic
  Controlled Averaging for Federated Learning, 2020.
  Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for
  Personalized Federated Learning, 2021 (compares with it).
"""

import dataclasses
from typing import ClassVar

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import adapt
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.scaffold import ScaffoldOptions, make_scaffold


@dataclasses.dataclass(frozen=True)
class ScaffoldFtOptions(ScaffoldOptions, adapt.AdaptationOptions):
  """Settings of SCAFFOLD, and of the adaptation."""

  method: ClassVar[str] = "scaffold_ft"

  def __post_init__(self):
    ScaffoldOptions.__post_init__(self)
    adapt.AdaptationOptions.__post_init__(self)


def make_scaffold_ft(
  models: api.Models,
  training: Training,
  options: ScaffoldFtOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes SCAFFOLD with fine-tuning.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train, by SGD with or without momentum.
    options: the method's own settings.
    federation: has the number of clients.

  Raises:
    ValueError: a cohort with another architecture, or steps that are not sums
      of gradients; once the parameters' shapes are known, also a model without
      the part that is to be adapted.
  """
  method = make_scaffold(models, training, options, federation)
  return adapt.with_adaptation(method, models.shared, training, options)
