"""QuPeL, the predecessor of QuPeD: personalization by a proximity penalty.

No distillation: a quadratic penalty ties each client's quantized weights to
its copy w_i of the global model, so all architectures must be equal.

.. math::
  f_i(x) + f_i(\\tilde Q_c(x)) + \\lambda R(x, c)
    + \\tfrac{\\lambda_p}{2} \\|\\tilde Q_c(x) - w\\|^2

Down: the global model w. Up: w_i, as a difference. For a client with full
precision, Q is the identity and the penalty ties x itself. With the hard
estimator the penalty moves quantized weights by their levels alone.

Optimizer states: those of the client's own weights and levels stay with it;
that of its copy of the global model starts afresh each round.

References:
  Ozkara, Singh, Data, Diggavi, QuPeL: Quantized Personalization with
  Applications to Federated Learning, 2021.
"""

import dataclasses

import jax
import optax

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  local_steps,
  messages,
  personal,
  requirements,
  trees,
)
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class QupelOptions:
  """Settings of QuPeL.

  Attributes:
    lambda_p: weight of the penalty that ties the quantized weights to w_i, at
      least 0.
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  lambda_p: float = api.traced(0.5)
  weighting: str = "uniform"

  def __post_init__(self):
    checks.not_negative("qupel.lambda_p", self.lambda_p)
    checks.choice("qupel.weighting", self.weighting, api.WEIGHTINGS)


def make_qupel(
  models: api.Models,
  training: Training,
  options: QupelOptions,
) -> api.FederatedMethod:
  """Makes QuPeL.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  requirements.check_same_model("qupel", models)
  model = models.shared
  lambda_p = options.lambda_p

  def init_client(key, inputs, server, client_id, spec, cohort):
    del key, inputs, client_id, cohort
    return training.learner(model, server.params, server.stats, spec.bits)

  def client_update(download, client, data, context, cohort):
    del cohort

    def step(carry, batch):
      learner, shared, opt_state = carry

      def penalty(params):
        return lambda_p / 2 * trees.squared_distance(params, shared)

      learner, loss = training.alternating.step(
        learner,
        training.label_objective(model, batch),
        context.rates,
        penalty,
      )
      # The gradient of the penalty in w_i, at the new x and c.
      views = training.alternating.views(learner, context.rates)
      quantized = views[-1].params
      grads = jax.tree.map(lambda w, q: lambda_p * (w - q), shared, quantized)
      updates, opt_state = training.shared_optimizer.update(
        grads,
        opt_state,
        shared,
        learning_rate=context.shared_learning_rate,
      )
      shared = optax.apply_updates(shared, updates)
      return (learner, shared, opt_state), {"loss": loss}

    shared = download.params
    carry = (client, shared, training.shared_optimizer.init(shared))
    (client, shared, _), metrics = local_steps.run(
      step, carry, data, context, training
    )
    # w_i never sees data, so it takes the statistics of the quantized model.
    stats = training.alternating.views(client, context.rates)[-1].stats
    message = trees.difference(api.GlobalModel(shared, stats), download)
    weight = messages.client_weight(options.weighting, data)
    return api.ClientResult(client, message, weight, metrics)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=training.steps * training.gradients_per_step,
  )
  return method.replace(init_client=init_client)
