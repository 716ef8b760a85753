"""Local training: every client alone, without communication.

The baseline that personalization has to beat. With quantized clients it is
the quantized training of Algorithm 1 on each client's data. Nothing travels.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
"""

import dataclasses
from typing import Any

from quped_jax import alternating
from quped_jax.methods import api


@dataclasses.dataclass(frozen=True)
class LocalOptions:
  """Local training has no settings of its own."""


def make_local(
  models: api.Models, public: Any, training: api.Training, options: LocalOptions
) -> api.FederatedMethod:
  """Makes local training.

  Args:
    models: of each cohort.
    public: not used.
    training: how clients train.
    options: none.
  """
  del public, options

  def init_server(key, inputs):
    del key, inputs
    return ()

  def init_client(key, inputs, server, client_id, spec, cohort):
    del server, client_id
    model = models.clients[cohort]
    return training.learner(model, *model.init(key, inputs), spec.bits)

  def broadcast(server, client_id, cohort):
    del server, client_id, cohort
    return ()

  def client_update(download, client, data, context, cohort):
    del download
    model = models.clients[cohort]

    def step(learner, batch):
      objective = training.label_objective(model, batch)
      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )
      return learner, {"loss": loss}

    client, metrics = api.local_steps(step, client, data, context, training)
    return api.ClientResult(client, (), 1.0, metrics)

  def server_update(server, aggregates, context):
    del aggregates, context
    return server

  def variants(server, client, data, context, cohort):
    del server
    model = models.clients[cohort]
    return {
      "personalized": (*alternating.current(client), model),
      "quantized": training.quantized_variant(model, client, data, context),
    }

  return api.FederatedMethod(
    init_server=init_server,
    init_client=init_client,
    broadcast=broadcast,
    client_update=client_update,
    server_update=server_update,
    variants=variants,
    headline="quantized",
    begin_finetune=alternating.freeze,
  )
