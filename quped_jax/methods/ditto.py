r"""Ditto: FedAvg, and alongside it personal models tied to the global model.

Each local step uses one batch for two steps: one of the client's copy of the
global model, exactly as in FedAvg, and one of its personal model,

.. math::
  v_i \leftarrow v_i - \eta (\nabla f_i(v_i) + \lambda (v_i - w_t)),

with w_t the global model as received. lambda = 0 is local training alongside
FedAvg; a large lambda ties v_i to w_t.

Down: the global model w. Up: the difference of the copy. The copy has full
precision. v_i may be quantized: it then takes alternating steps, in which the
penalty pulls the weights x and the levels follow the loss.

Optimizer states: those of the client's own weights and levels stay with it;
that of its copy of the global model starts afresh each round.

References:
  Li, Hu, Beirami, Smith, Ditto: Fair and Robust Federated Learning Through
  Personalization, 2021.
"""

import dataclasses

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  personal,
  requirements,
  trees,
)
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class DittoOptions:
  """Settings of Ditto.

  Attributes:
    lambda_p: weight of the penalty that ties v_i to w_t, at least 0.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  lambda_p: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("ditto.lambda_p", self.lambda_p)
    checks.choice("ditto.weighting", self.weighting, api.WEIGHTINGS)


def make_ditto(
  models: api.Models,
  training: Training,
  options: DittoOptions,
) -> api.FederatedMethod:
  """Makes Ditto.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  requirements.check_same_model("ditto", models)

  def client_update(download, client, data, context, cohort):
    del cohort

    def step(carry, batch):
      learner, shared, opt_state = carry
      labels = training.label_objective(models.shared, batch)

      # The gradient of (lambda / 2) ||v - w_t||^2.
      pull = trees.pull(learner.params, download.params, options.lambda_p)
      learner, loss = training.alternating.step(
        learner, labels, context.rates, correction=pull
      )
      shared, opt_state, _ = personal.shared_step(
        training, shared, opt_state, labels, context
      )
      return (learner, shared, opt_state), {"loss": loss}

    return personal.train_beside_copy(
      step, download, client, data, context, training, options.weighting
    )

  return personal.personal_method(
    models,
    training,
    client_update,
    # Those of v_i and one of the copy.
    gradients=training.steps * (training.gradients_per_step + 1),
  )
