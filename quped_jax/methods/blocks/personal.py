"""Building blocks of methods in which every client keeps a model of its own.

A client's state is a `Learner`, or a NamedTuple with a field `learner`. The
server's state is a `GlobalModel`, a NamedTuple with a field `model`, or, if no
model is shared, anything else.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from quped_jax.data.federation import ClientData
from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps, messages, trees
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import alternating
from quped_jax.quantization.alternating import Learner


def learner_of(client: Any) -> Learner:
  """The learner in a client's state."""
  return client if isinstance(client, Learner) else client.learner


def freeze(client: Any) -> Any:
  """Begins the fine-tuning phase of a client's learner."""
  frozen = alternating.freeze(learner_of(client))
  if isinstance(client, Learner):
    return frozen
  return client._replace(learner=frozen)


def model_of(server: Any) -> api.GlobalModel:
  """The model in the server's state or in its download."""
  return server if isinstance(server, api.GlobalModel) else server.model


def with_model(server: Any, model: api.GlobalModel) -> Any:
  """The same state with another model."""
  if isinstance(server, api.GlobalModel):
    return model
  return server._replace(model=model)


def toward(learner: Learner, model: api.GlobalModel, share: Any) -> Learner:
  """The learner with its weights moved towards those of a model.

  Batch-norm statistics move likewise; levels and optimizer states stay. In the
  fine-tuning phase, in which weights stay on their levels, nothing moves.

  Args:
    learner: of the model's network.
    model: where to.
    share: of the way, from 0 to 1.
  """
  if learner.assignments is not None:
    return learner

  def move(own, other):
    return jax.tree.map(lambda x, w: x + share * (w - x), own, other)

  return learner._replace(
    params=move(learner.params, model.params),
    stats=move(learner.stats, model.stats),
  )


def send(server: Any, context: api.Context, cohort: str) -> Any:
  """The `broadcast` of the server's whole state."""
  del context, cohort
  return server


def add_mean(
  server: Any, aggregates: dict[str, api.Aggregate], context: api.Context
) -> Any:
  """The `server_update` that adds the mean difference to the model."""
  del context
  model = model_of(server)
  mean = messages.mean_message(aggregates, model)
  return with_model(server, messages.add(model, mean))


def shared_step(
  training: Training,
  shared: api.GlobalModel,
  opt_state: Any,
  objective: alternating.Objective,
  context: api.Context,
) -> tuple[api.GlobalModel, Any, jax.Array]:
  """A gradient step of a downloaded model, in full precision.

  Args:
    training: has the `shared_optimizer` that takes the step.
    shared: the model.
    opt_state: state of that optimizer.
    objective: `(params, stats) -> (loss, stats)`.
    context: has the step size.

  Returns:
    The model, the optimizer's state, and the loss before the step.
  """
  (loss, stats), grads = jax.value_and_grad(objective, has_aux=True)(
    shared.params, shared.stats
  )
  updates, opt_state = training.shared_optimizer.update(
    grads,
    opt_state,
    shared.params,
    learning_rate=context.shared_learning_rate,
  )
  params = optax.apply_updates(shared.params, updates)
  return api.GlobalModel(params, stats), opt_state, loss


def train_beside_copy(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]],
  download: api.GlobalModel,
  client: Any,
  data: ClientData,
  context: api.Context,
  training: Training,
  weighting: str,
) -> api.ClientResult:
  """A client's round, in which it also trains a copy of the global model.

  Args:
    step: `((client, copy, opt_state), batch) -> (the same three, metrics)`, a
      local step; it updates the client's state, the copy, and the state of the
      copy's optimizer.
    download: the global model, from which the copy starts.
    client: the client's state.
    data: the client's samples.
    context: the client's context.
    training: how clients train.
    weighting: weights of the clients in the mean: by "samples" or "uniform".

  Returns:
    The client's result; its message is the difference of the copy.
  """
  opt_state = training.shared_optimizer.init(download.params)
  carry = (client, download, opt_state)
  (client, copy, _), metrics = local_steps.run(
    step, carry, data, context, training
  )
  weight = messages.client_weight(weighting, data)
  message = trees.difference(copy, download)
  return api.ClientResult(client, message, weight, metrics)


def personal_method(
  models: api.Models,
  training: Training,
  client_update: Callable[..., api.ClientResult],
  *,
  gradients: float,
  shares_model: bool = True,
) -> api.FederatedMethod:
  """A method of personal learners, perhaps alongside a model that all share.

  The clients start from the same fresh weights, each with its own levels. The
  server also starts from fresh weights, sends its model, and adds the mean of
  what comes back. A method replaces whatever it does differently.

  Args:
    models: the networks of the cohorts, and the global one.
    training: how clients train.
    client_update: see `FederatedMethod`.
    gradients: see `FederatedMethod`.
    shares_model: whether the server has a model; if not, it has no state at
      all.
  """

  def init_server(key, inputs):
    if not shares_model:
      return ()
    return api.GlobalModel(*models.shared.init(key, inputs))

  def init_client(key, inputs, server, client_id, spec, cohort):
    del server, client_id
    model = models.clients[cohort]
    return training.learner(model, *model.init(key, inputs), spec.bits)

  def global_model(server, cohort):
    del cohort
    shared = model_of(server)
    return shared.params, shared.stats, models.shared

  def variants(server, client, data, context, cohort):
    model, learner = models.clients[cohort], learner_of(client)
    trained = training.alternating.current(learner, context.rates)
    result = {
      "personalized": (*trained, model),
      "quantized": training.quantized_variant(model, learner, data, context),
    }
    if shares_model:
      result["global"] = global_model(server, cohort)
    return result

  def keep(server, aggregates, context):
    del aggregates, context
    return server

  return api.FederatedMethod(
    init_server=init_server,
    init_client=init_client,
    broadcast=send,
    client_update=client_update,
    server_update=add_mean if shares_model else keep,
    variants=variants,
    primary_variant="quantized",
    gradients=gradients,
    averages=shares_model,
    global_model=global_model if shares_model else None,
    begin_finetune=freeze,
  )
