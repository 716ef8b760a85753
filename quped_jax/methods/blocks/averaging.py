"""Building blocks of methods whose clients train one shared model w.

Down: w. Up: the difference after the local steps. Quantized clients train w by
the alternating steps, with levels of their own that stay with them; their
quantized model is the global one at these levels. Levels are fitted when the
federation begins; those of a client that has not taken part for many rounds
still belong to the old model. The state of the weights' optimizer starts afresh
each round, with the download; that of the levels' stays with them.

Batch-norm statistics belong to the model that they were taken with, so a
quantized client has two sets: of w, and of w at its levels. Both travel and are
averaged, the second among the clients of the same precision. A shared model is
evaluated with the server's statistics, never with those of one client's data.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Batch
from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import local_steps, messages, requirements, trees
from quped_jax.methods.blocks.personal import add_mean, model_of
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, training_pass
from quped_jax.quantization import alternating, codebook_tree
from quped_jax.quantization.alternating import Learner, Objective


class Levels(NamedTuple):
  """What stays with a client that has no weights of its own.

  Attributes:
    codebooks: its levels.
    centers_opt_state: state of their optimizer.
  """

  codebooks: Any
  centers_opt_state: Any


# `(download, batch, context) -> Objective`
LocalLoss = Callable[[Any, Batch, api.Context], Objective]
# `(download, params) -> tree`, added to the gradient of the weights
Correction = Callable[[Any, Any], Any]


def levels_of(client: Any) -> Levels:
  """The levels in a client's state."""
  return client if isinstance(client, Levels) else client.levels


def with_levels(client: Any, levels: Levels) -> Any:
  """The same state with other levels."""
  if isinstance(client, Levels):
    return levels
  return client._replace(levels=levels)


def keep(learner: Learner) -> Levels:
  """What stays with the client of its learner of the shared model."""
  return Levels(learner.codebooks, learner.centers_opt_state)


def begin(
  training: Training, model: Model, key: jax.Array, inputs: jax.Array
) -> api.GlobalModel:
  """A server's fresh model, with statistics for each precision."""
  params, stats = model.init(key, inputs)
  quantized = jax.tree.leaves(stats) and training.quantizes(model, params)
  return api.GlobalModel(
    params,
    stats,
    by_precision.begin(stats, training.precisions) if quantized else None,
  )


def copy_for(model: api.GlobalModel, spec: api.ClientSpec) -> api.GlobalModel:
  """What a client receives of a server's model: one set for its precision.

  At full precision the quantized form is the model itself, and so are its
  statistics.
  """
  if model.quantized_stats is None:
    return model
  own = by_precision.take(model.quantized_stats, spec.bits, model.stats)
  return model._replace(quantized_stats=own)


def resume(training: Training, shared: api.GlobalModel, client: Any) -> Learner:
  """A learner at a client's copy of the model, with the client's own levels."""
  levels = levels_of(client)
  learner = training.alternating.init(
    shared.params, shared.stats, levels.codebooks
  )
  learner = learner._replace(centers_opt_state=levels.centers_opt_state)
  if shared.quantized_stats is None:
    return learner
  return learner._replace(quantized_stats=shared.quantized_stats.value)


def model_after(learner: Learner, shared: api.GlobalModel) -> api.GlobalModel:
  """The model that a client's copy of the shared one has become."""
  own = shared.quantized_stats
  if own is not None:
    own = dataclasses.replace(own, value=learner.quantized_stats)
  return api.GlobalModel(learner.params, learner.stats, own)


def difference(learner: Learner, shared: api.GlobalModel) -> api.GlobalModel:
  """How far a learner has moved from a client's copy of the shared model.

  A second set that the server does not average, as at full precision, says
  nothing: it must not count in the message's length.
  """
  moved = trees.difference(model_after(learner, shared), shared)
  if moved.quantized_stats is None:
    return moved
  counts = codebook_tree.is_quantized(learner.codebooks)
  own = jax.tree.map(
    lambda d: jnp.where(counts, d, jnp.zeros_like(d)), moved.quantized_stats
  )
  return moved._replace(quantized_stats=own)


def quantized_model(
  training: Training, model: Model, server: Any, client: Any, spec: Any
) -> api.Predictor:
  """The shared model at a client's levels, with the server's statistics."""
  shared = copy_for(model_of(server), spec)
  return (*alternating.deployed(resume(training, shared, client)), model)


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
    logits, stats = training_pass(model, params, stats, batch)
    return training.loss(logits, batch.labels) + term(logits), stats

  return objective


def predict(model: Model, teacher: api.GlobalModel, batch: Batch) -> jax.Array:
  """Outputs of a teacher, with its running batch-norm statistics."""
  return model.apply(teacher.params, teacher.stats, batch.inputs, False)[0]


def averaging_method(
  name: str,
  models: api.Models,
  training: Training,
  *,
  weighting: str = "samples",
  local_loss: LocalLoss | None = None,
  correction: Correction | None = None,
  batches: int = 1,
) -> api.FederatedMethod:
  """FedAvg, with a loss at the clients that the method may choose.

  A method replaces whatever else it does differently. The server's state and
  its download may be a NamedTuple with a field `model`, a client's state one
  with a field `levels`. A method whose clients keep more than that calls this
  `client_update`, with what the local steps must know of it in the download,
  and then changes the rest of the state that it returns.

  Args:
    name: the method's name, for errors.
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
    local_loss: `(download, batch, context) -> Objective`; by default the loss
      on the labels.
    correction: `(download, params) -> tree`, added to the gradient of the
      weights; by default there is none.
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
    return begin(training, model, key, inputs)

  def init_client(key, inputs, server, client_id, spec, cohort):
    del key, inputs, client_id, cohort
    shared = model_of(server)
    learner = training.learner(model, shared.params, shared.stats, spec.bits)
    return keep(learner)

  def broadcast(server, context, cohort):
    del cohort
    return copy_for(model_of(server), context.spec)

  def client_update(download, client, data, context, cohort):
    del cohort
    shared = model_of(download)
    learner, metrics = local_steps.train(
      training,
      resume(training, shared, client),
      lambda batch: objective(download, batch, context),
      data,
      context,
      correction=correction and functools.partial(correction, download),
      batches=batches,
    )
    weight = messages.client_weight(weighting, data)
    message = difference(learner, shared)
    client = with_levels(client, keep(learner))
    return api.ClientResult(client, message, weight, metrics)

  def global_model(server, cohort):
    del cohort
    shared = model_of(server)
    return shared.params, shared.stats, model

  def start(server, spec, cohort):
    del cohort
    return copy_for(model_of(server), spec), model

  def variants(server, client, data, context, cohort):
    del data
    result = {"global": global_model(server, cohort)}
    if quantized:
      result["quantized"] = quantized_model(
        training, model, server, client, context.spec
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
    start=start,
  )
