"""Building block of methods in which two models teach each other.

A client's own model, perhaps quantized and of its own architecture, and its
copy of the global model each take a step on every batch. Each learns from the
labels and from the other's logits before the step, which are held constant.

If a client's own model is quantized, its quantized form teaches, since that is
the model the client deploys. At full precision the two are the same.
"""

from collections.abc import Callable

import jax

from quped_jax.methods import api
from quped_jax.methods.blocks import personal
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass

# `(logits, the other's logits, labels) -> loss`
MutualLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def mutual_method(
  models: api.Models,
  training: Training,
  own_loss: MutualLoss,
  shared_loss: MutualLoss,
  *,
  weighting: str,
) -> api.FederatedMethod:
  """A method in which clients' own models and the global one teach each other.

  Down: the global model. Up: the difference of the client's copy, which has
  full precision.

  Args:
    models: the networks of the global model and of each cohort, of any
      architectures.
    training: how clients train.
    own_loss: loss of a client's own model; the other logits are the copy's.
    shared_loss: loss of the copy; the other logits are the own model's.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]

    def objective(model, loss_of, others, batch):
      def loss(params, stats):
        logits, stats = training_pass(model, params, stats, batch)
        return loss_of(logits, others, batch.labels), stats

      return loss

    def step(carry, batch):
      learner, shared, opt_state = carry
      view = training.alternating.views(learner, context.rates)[-1]
      own, _ = training_pass(model, view.params, view.stats, batch)
      copied, _ = training_pass(
        models.shared, shared.params, shared.stats, batch
      )
      learner, loss = training.alternating.step(
        learner, objective(model, own_loss, copied, batch), context.rates
      )
      shared, opt_state, _ = personal.shared_step(
        training,
        shared,
        opt_state,
        objective(models.shared, shared_loss, own, batch),
        context,
      )
      return (learner, shared, opt_state), {"loss": loss}

    return personal.train_beside_copy(
      step, download, client, data, context, training, weighting
    )

  return personal.personal_method(
    models,
    training,
    client_update,
    # The teachers' forward passes are those of their own steps.
    gradients=training.steps * (training.gradients_per_step + 1),
  )
