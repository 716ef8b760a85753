"""FedBABU: clients train the body under a head that stays as it was drawn.

All clients have the same random head, the last layer, which nobody trains: the
local steps move only the body, so that bodies of different clients learn
features for the same classifier. Down: the body. Up: its difference after the
local steps. The server takes the mean in which all clients count alike.

The global model is the body under that head. A client's personalized model is
the global one after some steps on its own training data, which train the head
too; it is made anew for each evaluation and then discarded.

Weight decay and momentum do not move the head either: whatever the optimizer
does, the head is put back after each step. Quantized clients train by the
alternating steps, with levels of their own that stay with them and train with
the body; their quantized model is the adapted one, at the levels that the
adaptation leads to.

Optimizer states: that of the weights starts afresh each round, with the
download, and in the adaptation; that of the levels stays with the client.

References:
  Oh, Kim, Yun, FedBABU: Toward Enhanced Representation for Federated Image
  Classification, 2022.
"""

import dataclasses
from typing import ClassVar

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  adapt,
  averaging,
  divided,
  local_steps,
  partial,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import is_head


@dataclasses.dataclass(frozen=True)
class FedbabuOptions(adapt.AdaptationOptions):
  """Settings of FedBABU, in addition to those of the adaptation.

  Attributes:
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  method: ClassVar[str] = "fedbabu"

  weighting: str = "uniform"

  def __post_init__(self):
    super().__post_init__()
    checks.choice("fedbabu.weighting", self.weighting, api.WEIGHTINGS)


def make_fedbabu(
  models: api.Models,
  training: Training,
  options: FedbabuOptions,
) -> api.FederatedMethod:
  """Makes FedBABU.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without a last layer or without a body.
  """
  model = models.shared

  def predicate_of(params):
    divided.check_head("method='fedbabu'", model, params)
    return is_head

  def train(learner, data, context):
    step = adapt.step_of(training, model, context, "body")
    return local_steps.run(step, learner, data, context, training)

  method = partial.partial_method(
    "fedbabu",
    models,
    training,
    predicate_of,
    weighting=options.weighting,
    train=train,
  )
  # The server's head is everybody's, so its model is global after all.
  whole = averaging.averaging_method("fedbabu", models, training)
  method = method.replace(global_model=whole.global_model, start=whole.start)
  return adapt.with_adaptation(method, model, training, options)
