"""Building blocks of methods whose clients train one shared model w.

Down: w. Up: the difference after the local steps. Quantized clients train w by
the alternating steps, with levels of their own that stay with them; their
quantized model is the global one at these levels. Levels are fitted when the
federation begins; those of a client that has not taken part for many rounds
still belong to the old model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Batch
from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps, messages, requirements, trees
from quped_jax.methods.blocks.personal import add_mean, model_of
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model
from quped_jax.quantization import codebook_tree
from quped_jax.quantization.alternating import Learner, Objective


class Levels(NamedTuple):
  """What stays with a client that has no weights of its own.

  Attributes:
    codebooks: its levels.
    centers_opt_state: state of their optimizer.
    quantized_stats: batch-norm statistics of its quantized model.
  """

  codebooks: Any
  centers_opt_state: Any
  quantized_stats: Any


# `(download, batch, context) -> Objective`
LocalLoss = Callable[[Any, Batch, api.Context], Objective]


def keep(learner: Learner) -> Levels:
  """What stays with the client of its learner of the shared model."""
  return Levels(
    learner.codebooks, learner.centers_opt_state, learner.quantized_stats
  )


def resume(
  training: Training, shared: api.GlobalModel, levels: Levels
) -> Learner:
  """A learner at the shared model, with the client's own levels."""
  learner = training.alternating.init(
    shared.params, shared.stats, levels.codebooks
  )
  return learner._replace(
    centers_opt_state=levels.centers_opt_state,
    quantized_stats=own_stats(levels, shared.stats),
  )


def own_stats(client: Levels | Learner, stats: Any) -> Any:
  """Statistics of a quantized model that starts from a shared one.

  They are the client's own; at full precision, where the quantized model is
  the model itself, they are the given `stats`.
  """
  if client.quantized_stats is None:
    return None
  own = codebook_tree.is_quantized(client.codebooks)
  return jax.tree.map(
    lambda a, b: jnp.where(own, a, b), client.quantized_stats, stats
  )


def difference(learner: Learner, shared: api.GlobalModel) -> api.GlobalModel:
  """How far a learner has moved from the shared model."""
  return trees.difference(
    api.GlobalModel(learner.params, learner.stats), shared
  )


def with_term(
  training: Training,
  model: Model,
  batch: Batch,
  term: Callable[[jax.Array], jax.Array],
) -> Objective:
  """The loss of a model on a batch's labels, plus a further term.

  Args:
    training: has the loss.
    model: the network.
    batch: the samples.
    term: `logits [batch, classes] -> scalar`.
  """

  def objective(params, stats):
    logits, stats = model.apply(params, stats, batch.inputs, True)
    return training.loss(logits, batch.labels) + term(logits), stats

  return objective


def predict(model: Model, teacher: api.GlobalModel, batch: Batch) -> jax.Array:
  """Logits of a teacher, with its running batch-norm statistics."""
  params, stats = teacher
  return model.apply(params, stats, batch.inputs, False)[0]


def averaging_method(
  name: str,
  models: api.Models,
  training: Training,
  *,
  weighting: str = "samples",
  local_loss: LocalLoss | None = None,
  batches: int = 1,
) -> api.FederatedMethod:
  """FedAvg, with a loss at the clients that the method may choose.

  A method replaces whatever else it does differently. The server's state and
  its download may be a NamedTuple with a field `model`.

  Args:
    name: the method's name, for errors.
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
    local_loss: `(download, batch, context) -> Objective`; by default the loss
      on the labels.
    batches: how many batches a local step gets, see `local_steps.run`.

  Raises:
    ValueError: a cohort with another architecture.
  """
  requirements.check_same_model(name, models)
  model = models.shared
  quantized = training.max_levels is not None

  def from_labels(download, batch, context):
    del download, context
    return training.label_objective(model, batch)

  objective = local_loss or from_labels

  def init_server(key, inputs):
    return api.GlobalModel(*model.init(key, inputs))

  def init_client(key, inputs, server, client_id, spec, cohort):
    del key, inputs, client_id, cohort
    shared = model_of(server)
    learner = training.learner(model, shared.params, shared.stats, spec.bits)
    return keep(learner)

  def broadcast(server, client_id, cohort):
    del client_id, cohort
    return model_of(server)

  def client_update(download, client, data, context, cohort):
    del cohort
    shared = model_of(download)
    learner, metrics = local_steps.train(
      training,
      resume(training, shared, client),
      lambda batch: objective(download, batch, context),
      data,
      context,
      batches=batches,
    )
    weight = messages.client_weight(weighting, data)
    message = difference(learner, shared)
    return api.ClientResult(keep(learner), message, weight, metrics)

  def global_model(server, cohort):
    del cohort
    return (*model_of(server), model)

  def variants(server, client, data, context, cohort):
    result = {"global": global_model(server, cohort)}
    if quantized:
      learner = resume(training, model_of(server), client)
      result["quantized"] = training.quantized_variant(
        model, learner, data, context
      )
    return result

  return api.FederatedMethod(
    init_server=init_server,
    init_client=init_client,
    broadcast=broadcast,
    client_update=client_update,
    server_update=add_mean,
    variants=variants,
    primary_variant="quantized" if quantized else "global",
    gradients=training.steps * training.gradients_per_step,
    averages=True,
    global_model=global_model,
  )
