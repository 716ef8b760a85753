"""Local training: every client trains alone, without communication.

This is the baseline that personalization has to beat. With quantized clients it
is the quantized training of Algorithm 1 on each client's data. Nothing travels.

Optimizer states: those of the client's own weights and levels stay with it.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
"""

import dataclasses

from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps, personal
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class LocalOptions:
  """Local training has no settings of its own."""


def make_local(
  models: api.Models,
  training: Training,
  options: LocalOptions,
) -> api.FederatedMethod:
  """Makes local training.

  Args:
    models: the networks of the cohorts.
    training: how clients train.
    options: none.
  """
  del options

  def client_update(download, client, data, context, cohort):
    del download
    model = models.clients[cohort]

    client, metrics = local_steps.train(
      training,
      client,
      lambda batch: training.label_objective(model, batch),
      data,
      context,
    )
    return api.ClientResult(client, (), 1.0, metrics)

  return personal.personal_method(
    models,
    training,
    client_update,
    gradients=training.steps * training.gradients_per_step,
    shares_model=False,
  )
