"""FedAvg: the server averages what clients make of its model.

Down: the global model w. Up: the difference after the local steps. The server
takes the mean weighted by samples and hands it to an optimizer of its own
(plain SGD with step size 1 is FedAvg; momentum FedAvgM, Adam FedAdam).

Quantized clients train w by the alternating steps, with levels of their own
that stay with them; their quantized model is the global one at these levels.

References:
  McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient
  Learning of Deep Networks from Decentralized Data, 2017.
  Reddi et al., Adaptive Federated Optimization, 2021.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import transforms
from quped_jax.methods import api


@dataclasses.dataclass(frozen=True)
class FedavgOptions:
  """Settings of FedAvg.

  Attributes:
    server_optimizer: "sgd", "momentum", "adam" or "adamw".
    server_learning_rate: its step size; 1 with "sgd" is the plain mean.
    server_momentum: decay of "momentum".
    weighting: of the clients in the mean, by "samples" or "uniform".
  """

  server_optimizer: str = "sgd"
  server_learning_rate: float = 1.0
  server_momentum: float = 0.9
  weighting: str = "samples"

  def __post_init__(self):
    api.check_choice(
      "fedavg.server_optimizer", self.server_optimizer, transforms.OPTIMIZERS
    )
    api.check_positive("fedavg.server_learning_rate", self.server_learning_rate)
    api.check_unit_interval("fedavg.server_momentum", self.server_momentum)
    api.check_choice("fedavg.weighting", self.weighting, api.WEIGHTINGS)


class FedavgServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the GlobalModel.
    opt_state: of the server's optimizer.
  """

  model: api.GlobalModel
  opt_state: Any


class FedavgClient(NamedTuple):
  """What stays with a client; it has no weights of its own.

  Attributes:
    codebooks: its levels.
    centers_opt_state: of their optimizer.
    quantized_stats: batch-norm statistics of its quantized model.
  """

  codebooks: Any
  centers_opt_state: Any
  quantized_stats: Any


def make_fedavg(
  models: api.Models,
  public: Any,
  training: api.Training,
  options: FedavgOptions,
) -> api.FederatedMethod:
  """Makes FedAvg.

  Args:
    models: of each cohort, all of the global model's architecture.
    public: not used.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort of another architecture.
  """
  del public
  api.check_same_model("fedavg", models)
  model = models.shared
  quantized = training.max_levels is not None
  server_optimizer = transforms.base_optimizer(
    options.server_optimizer, momentum=options.server_momentum
  )

  def init_server(key, inputs):
    shared = api.GlobalModel(*model.init(key, inputs))
    return FedavgServer(shared, server_optimizer.init(shared.params))

  def keep(learner):
    return FedavgClient(
      learner.codebooks, learner.centers_opt_state, learner.quantized_stats
    )

  def resume(shared, client):
    """A learner at the global model, with the client's own levels."""
    learner = training.alternating.init(
      shared.params, shared.stats, client.codebooks
    )
    return learner._replace(
      centers_opt_state=client.centers_opt_state,
      quantized_stats=client.quantized_stats,
    )

  def init_client(key, inputs, server, client_id, spec, cohort):
    del key, inputs, client_id, cohort
    shared = server.model
    return keep(training.learner(model, shared.params, shared.stats, spec.bits))

  def broadcast(server, client_id, cohort):
    del client_id, cohort
    return server.model

  def client_update(download, client, data, context, cohort):
    del cohort

    def step(learner, batch):
      objective = training.label_objective(model, batch)
      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )
      return learner, {"loss": loss}

    learner, metrics = api.local_steps(
      step, resume(download, client), data, context, training
    )
    message = api.tree_difference(
      api.GlobalModel(learner.params, learner.stats), download
    )
    weight = api.client_weight(options.weighting, data)
    return api.ClientResult(keep(learner), message, weight, metrics)

  def server_update(server, aggregates, context):
    del context
    mean = api.mean_message(aggregates, server.model)
    updates, opt_state = server_optimizer.update(
      jax.tree.map(jnp.negative, mean.params),
      server.opt_state,
      server.model.params,
      learning_rate=options.server_learning_rate,
    )
    new = FedavgServer(
      api.GlobalModel(
        optax.apply_updates(server.model.params, updates),
        optax.apply_updates(server.model.stats, mean.stats),
      ),
      opt_state,
    )
    # A server with momentum moves even on a mean of zero.
    heard = sum(a.weight for a in aggregates.values()) > 0
    return jax.tree.map(lambda a, b: jnp.where(heard, a, b), new, server)

  def variants(server, client, data, context, cohort):
    del cohort
    shared = server.model
    result = {"global": (shared.params, shared.stats, model)}
    if quantized:
      result["quantized"] = training.quantized_variant(
        model, resume(shared, client), data, context
      )
    return result

  return api.FederatedMethod(
    init_server=init_server,
    init_client=init_client,
    broadcast=broadcast,
    client_update=client_update,
    server_update=server_update,
    variants=variants,
    headline="quantized" if quantized else "global",
  )
