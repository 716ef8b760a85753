"""Building blocks of methods that share only a part of the model.

The rest, chosen by the paths of parameters and batch-norm statistics, is the
client's own: it starts as in the server's initial model and never travels.
Down: the shared part. Up: its difference after the local steps. A client's
model is the server's shared part together with the client's own part. No model
is global: the server's own part is never trained.

Both sets of batch-norm statistics are divided like the model. Of a quantized
client's model the shared ones are the server's; its own ones are re-estimated.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from quped_jax.data.federation import ClientData
from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import averaging, local_steps, messages
from quped_jax.methods.blocks.personal import add_mean
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization.alternating import Learner
from quped_jax.quantization.codebook_tree import path_name

# Whether the parameter or statistic at a path is the client's own.
Predicate = Callable[[str], bool]
# `(learner, data, context) -> (learner, metrics)`
Train = Callable[
  [Learner, ClientData, api.Context], tuple[Learner, dict[str, jax.Array]]
]


class PartialClient(NamedTuple):
  """What stays with a client.

  Attributes:
    own: its part of the model, `optax.MaskedNode()` where the model is shared.
    levels: the levels of its quantized model.
  """

  own: api.GlobalModel
  levels: averaging.Levels


def is_masked(node: Any) -> bool:
  """Whether a node stands in for an array of the other part."""
  return isinstance(node, optax.MaskedNode)


def prune(tree: Any, predicate: Predicate, keep: bool = True) -> Any:
  """Masks all leaves except those for whose path `predicate` is `keep`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      x if predicate(path_name(path)) == keep else optax.MaskedNode()
    ),
    tree,
  )


def divide(
  model: api.GlobalModel, predicate: Predicate
) -> tuple[api.GlobalModel, api.GlobalModel]:
  """The two parts of a model: the shared one, and the client's own."""

  def part(tree, keep):
    if by_precision.is_of_precision(tree):
      value = prune(tree.value, predicate, keep)
      return dataclasses.replace(tree, value=value)
    if isinstance(tree, by_precision.Held):
      heard = optax.MaskedNode() if keep else tree.heard
      return by_precision.Held(prune(tree.values, predicate, keep), heard)
    return prune(tree, predicate, keep)

  shared, own = (
    api.GlobalModel(*(part(tree, keep) for tree in model))
    for keep in (False, True)
  )
  return shared, own


def merge(first: Any, second: Any) -> Any:
  """The tree that consists of two parts."""
  return jax.tree.map(
    lambda a, b: b if is_masked(a) else a, first, second, is_leaf=is_masked
  )


def partial_method(
  name: str,
  models: api.Models,
  training: Training,
  predicate_of: Callable[[Any], Predicate],
  *,
  weighting: str,
  train: Train | None = None,
) -> api.FederatedMethod:
  """FedAvg of a part of the model; of all of it if nothing is a client's own.

  Args:
    name: the method's name, for errors.
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    predicate_of: `params -> predicate` of what is the client's own. It is
      first called with the shapes of the parameters, before anything is
      compiled.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
    train: a client's local steps; by default they train the whole model on the
      labels.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a predicate under which nothing is shared.
  """
  base = averaging.averaging_method(name, models, training)
  model = models.shared
  quantized = training.max_levels is not None

  def train_all(learner, data, context):
    return local_steps.train(
      training,
      learner,
      lambda batch: training.label_objective(model, batch),
      data,
      context,
    )

  train = train or train_all

  def parts(whole):
    return divide(whole, predicate_of(whole.params))

  def init_server(key, inputs):
    server = base.init_server(key, inputs)
    if not jax.tree.leaves(parts(server)[0].params):
      raise ValueError(
        f"method={name!r}: must share a part of the model, but all parameters "
        f"of model={model.name!r} are each client's own"
      )
    return server

  def init_client(key, inputs, server, client_id, spec, cohort):
    levels = base.init_client(key, inputs, server, client_id, spec, cohort)
    return PartialClient(parts(averaging.copy_for(server, spec))[1], levels)

  def broadcast(server, context, cohort):
    del cohort
    return parts(averaging.copy_for(server, context.spec))[0]

  def client_update(download, client, data, context, cohort):
    del cohort
    whole = merge(download, client.own)
    learner, metrics = train(
      averaging.resume(training, whole, client), data, context
    )
    _, own = parts(averaging.model_after(learner, whole))
    shared, _ = parts(averaging.difference(learner, whole))
    return api.ClientResult(
      PartialClient(own, averaging.keep(learner)),
      shared,
      messages.client_weight(weighting, data),
      metrics,
    )

  def server_update(server, aggregates, context):
    shared, initial = parts(server)
    return merge(add_mean(shared, aggregates, context), initial)

  def start(server, spec, cohort):
    del spec, cohort
    # Its own part is untrained, and so are the statistics of all that follows.
    return server._replace(quantized_stats=None), model

  def quantized_model(whole, client, data, context):
    learner = averaging.resume(training, whole, client)
    params, stats, _ = training.quantized_variant(model, learner, data, context)
    predicate = predicate_of(learner.params)
    shared = prune(learner.quantized_stats, predicate, False)
    return params, merge(shared, prune(stats, predicate)), model

  def variants(server, client, data, context, cohort):
    whole = merge(broadcast(server, context, cohort), client.own)
    result = {"personalized": (whole.params, whole.stats, model)}
    if quantized:
      result["quantized"] = quantized_model(whole, client, data, context)
    return result

  return base.replace(
    init_server=init_server,
    init_client=init_client,
    broadcast=broadcast,
    client_update=client_update,
    server_update=server_update,
    variants=variants,
    primary_variant="quantized" if quantized else "personalized",
    global_model=None,
    start=start,
  )
