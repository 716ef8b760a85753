r"""pFedMe: personal models within a Moreau envelope around the global one.

Every client minimises the envelope of its loss in its copy w_i of the global
model,

.. math::
  F_i(w) = \min_\theta f_i(\theta) + \tfrac{\lambda}{2} \|\theta - w\|^2,
  \qquad \nabla F_i(w) = \lambda (w - \theta^*(w)),

and keeps theta, its personal model. Each local step draws one batch, on which
theta takes K steps; then w_i moves towards theta. Theta continues from one
local step to the next, and starts each round from w.

Down: the global model w. Up: w_i, as a difference. The server mixes:
w <- (1 - beta) w + beta * mean of w_i.

Theta may be quantized: it then takes alternating steps. The penalty pulls the
weights x only, not also Q(x), where it would count twice for what is not
quantized; w_i follows x; the levels, which stay with the client, follow the
loss. In the fine-tuning phase a quantized theta, whose weights sit at their
levels, no longer restarts from w. The step size of theta is `learning_rate`;
with plain SGD its product with lambda must be below 2.

Optimizer states: those of theta's weights and levels stay with the client,
though theta starts from w each round; w_i takes plain steps.

References:
  Dinh, Tran, Nguyen, Personalized Federated Learning with Moreau Envelopes,
  2020.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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
from quped_jax.quantization import alternating, codebook_tree
from quped_jax.quantization.alternating import Learner


@dataclasses.dataclass(frozen=True)
class PfedmeOptions:
  """Settings of pFedMe.

  Attributes:
    lambda_p: lambda, weight of the penalty that ties theta to w_i, positive.
    inner_steps: K, the number of steps of theta on each batch, at least 1.
    eta: step size of w_i; its product with lambda_p must be below 1.
    beta: weight of the clients' mean in the new global model, positive; the old
      global model has weight 1 - beta.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  lambda_p: float = api.traced(15.0)
  inner_steps: int = 5
  eta: float = api.traced(0.05)
  beta: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.positive("pfedme.lambda_p", self.lambda_p)
    checks.at_least("pfedme.inner_steps", self.inner_steps, 1)
    checks.positive("pfedme.eta", self.eta)
    if self.eta * self.lambda_p >= 1:
      raise ValueError(
        f"pfedme.eta={self.eta}: must be below {1 / self.lambda_p:.4g}, "
        f"which is 1 / pfedme.lambda_p"
      )
    checks.positive("pfedme.beta", self.beta)
    checks.choice("pfedme.weighting", self.weighting, api.WEIGHTINGS)


def own_stats(theta: Learner, stats: Any) -> Any:
  """Statistics of a quantized theta that starts at w.

  They are the client's own; at full precision, where the quantized theta is
  theta itself, they are the given ones, of w.
  """
  if theta.quantized_stats is None:
    return None
  own = codebook_tree.is_quantized(theta.codebooks)
  return jax.tree.map(
    lambda a, b: jnp.where(own, a, b), theta.quantized_stats, stats
  )


def make_pfedme(
  models: api.Models,
  training: Training,
  options: PfedmeOptions,
) -> api.FederatedMethod:
  """Makes pFedMe.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  requirements.check_same_model("pfedme", models)
  lambda_p, eta = options.lambda_p, options.eta

  def start(learner, shared):
    """Theta at w, with its own levels and optimizer states."""
    new = learner._replace(
      params=shared.params,
      stats=shared.stats,
      quantized_stats=own_stats(learner, shared.stats),
    )
    if learner.assignments is None:
      return new
    at_levels = codebook_tree.is_quantized(learner.codebooks)
    return jax.tree.map(lambda a, b: jnp.where(at_levels, a, b), learner, new)

  def client_update(download, client, data, context, cohort):
    del cohort

    def step(carry, batch):
      theta, w = carry
      labels = training.label_objective(models.shared, batch)

      def inner_step(theta, _):
        # The gradient of the penalty.
        pull = trees.pull(theta.params, w, lambda_p)
        return training.alternating.step(
          theta, labels, context.rates, correction=pull
        )

      theta, losses = jax.lax.scan(
        inner_step, theta, length=options.inner_steps
      )
      w = jax.tree.map(
        lambda w, t: w - eta * lambda_p * (w - t), w, theta.params
      )
      return (theta, w), {"loss": losses[0]}

    carry = (start(client, download), download.params)
    (theta, w), metrics = local_steps.run(step, carry, data, context, training)
    # w_i never sees data, so it takes the statistics of theta.
    _, stats = alternating.current(theta)
    message = trees.difference(api.GlobalModel(w, stats), download)
    weight = messages.client_weight(options.weighting, data)
    return api.ClientResult(theta, message, weight, metrics)

  def server_update(server, aggregates, context):
    del context
    mean = messages.mean_message(aggregates, server)
    # Statistics take the plain mean: with beta > 1 a variance could turn
    # negative.
    mixed = jax.tree.map(lambda d: options.beta * d, mean.params)
    return messages.add(server, mean._replace(params=mixed))

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=(
      training.steps * options.inner_steps * training.gradients_per_step
    ),
  )
  return method.replace(
    server_update=server_update, server_moves=lambda server: server.params
  )
