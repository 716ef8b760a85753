r"""APFL: a learned mixture of a personal and the global model.

A client evaluates the mixture

.. math:: \bar v = \alpha v + (1 - \alpha) w

of its personal model v and the global model, with its own alpha. Each local
step uses one batch for all three updates, at the same v, w and alpha:

.. math::
  w &\leftarrow w - \eta \nabla f(w) \\
  v &\leftarrow v - \eta \nabla_v f(\bar v)
    = v - \eta \alpha \nabla f(\bar v) \\
  \alpha &\leftarrow \mathrm{clip}(\alpha - \eta_\alpha
    \langle \nabla f(\bar v), v - w \rangle, 0, 1)

alpha = 1 is local training alongside FedAvg, alpha = 0 is FedAvg. The paper
updates alpha in every step, with the step size of the weights; its released
code does so once per round, in the first step.

Down: the global model w. Up: the difference of the client's copy of it. v and
alpha stay with the client; the personalized model is the mixture of v and the
server's current w. All clients have full precision: a mixture of a quantized
model and another one is not quantized.

Optimizer states: that of v stays with the client; that of the copy of w starts
afresh each round. Alpha takes plain gradient steps.

References:
  Deng, Kamani, Mahdavi, Adaptive Personalized Federated Learning, 2020.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  personal,
  requirements,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization.alternating import Learner


@dataclasses.dataclass(frozen=True)
class ApflOptions:
  """Settings of APFL.

  Attributes:
    alpha: initial weight of the personal model in the mixture, in [0, 1].
    alpha_learning_rate: step size of alpha; 0 keeps alpha fixed.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  alpha: float = api.traced(0.5)
  alpha_learning_rate: float = api.traced(0.05)
  weighting: str = "samples"

  def __post_init__(self):
    checks.unit_interval("apfl.alpha", self.alpha)
    checks.not_negative("apfl.alpha_learning_rate", self.alpha_learning_rate)
    checks.choice("apfl.weighting", self.weighting, api.WEIGHTINGS)


class ApflClient(NamedTuple):
  """State of a client.

  Attributes:
    learner: v, with the batch-norm statistics of the mixture.
    alpha: weight of v in the mixture, float `[]`.
  """

  learner: Learner
  alpha: jax.Array


def mix(alpha: Any, own: Any, shared: Any) -> Any:
  """alpha * own + (1 - alpha) * shared, leaf by leaf."""
  return jax.tree.map(lambda v, w: alpha * v + (1 - alpha) * w, own, shared)


def make_apfl(
  models: api.Models,
  training: Training,
  options: ApflOptions,
) -> api.FederatedMethod:
  """Makes APFL.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture, or quantized clients.
  """
  requirements.check_same_model("apfl", models)
  requirements.check_full_precision(
    "apfl", training, "a mixture with the global model is not quantized"
  )
  model = models.shared

  def client_update(download, client, data, context, cohort):
    del cohort

    def step(carry, batch):
      (learner, alpha), shared, opt_state = carry
      labels = training.label_objective(model, batch)
      v, w = learner.params, shared.params

      # One pass through the mixture gives both gradients.
      (loss, stats), grads = jax.value_and_grad(labels, has_aux=True)(
        mix(alpha, v, w), learner.stats
      )
      slopes = jax.tree.map(lambda g, v, w: jnp.vdot(g, v - w), grads, v, w)
      slope = sum(jax.tree.leaves(slopes))
      learner, _ = training.alternating.step(
        learner,
        lambda params, _: (loss, stats),  # Constant; the gradient is below.
        context.rates,
        correction=jax.tree.map(lambda g: alpha * g, grads),
      )
      alpha = jnp.clip(alpha - options.alpha_learning_rate * slope, 0, 1)
      shared, opt_state, _ = personal.shared_step(
        training, shared, opt_state, labels, context
      )
      return (ApflClient(learner, alpha), shared, opt_state), {"loss": loss}

    return personal.train_beside_copy(
      step, download, client, data, context, training, options.weighting
    )

  method = personal.personal_method(
    models,
    training,
    client_update,
    # One of the mixture and one of the copy.
    gradients=2 * training.steps,
  )

  def init_client(*args):
    learner = method.init_client(*args)
    return ApflClient(learner, jnp.float32(options.alpha))

  def variants(server, client, data, context, cohort):
    del data, context, cohort
    learner, alpha = client
    mixture = mix(alpha, learner.params, server.params)
    return {
      "personalized": (mixture, learner.stats, model),
      "global": (server.params, server.stats, model),
    }

  return method.replace(
    init_client=init_client, variants=variants, primary_variant="personalized"
  )
