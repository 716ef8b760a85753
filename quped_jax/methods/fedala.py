r"""FedALA: clients learn how much of the global model to begin from.

A client keeps the last layers v of the model that it had at the end of its last
round, and for each of their parameters a weight W in [0, 1], at first 1. It
begins its next round at

.. math:: \hat w = w + (1 - W) (v - w)

in these layers, and at the global model w in the others. Before that it learns
W, with v and w held fixed, by steps on batches of its own samples,

.. math:: W \leftarrow \mathrm{clip}(W - a \, \nabla f(\hat w) (w - v), 0, 1).

In its first round there is no v, and it begins at w; in its second it takes
`start_steps` such steps, and `weight_steps` in all others. Then it takes its
local steps as in FedAvg. Down: w. Up: the difference from w after the local
steps. The server takes the weighted mean.

"personalized" is the mixture of the new w and v by the W of the client's last
round. Quantized clients learn W at x, and take the local steps at x and at
Q(x), with levels of their own that stay with them; their quantized model is the
mixture at these levels. `gradients` counts `weight_steps` for W, each as one,
although a step differentiates only the last layers.

In the released code a client learns W for one epoch on 80 % of its samples, in
its second round until the loss settles; here, as everywhere, steps are counted.
There the mixture is evaluated after W was learned anew for the new w.

Optimizer states: that of the weights starts afresh each round, with the
mixture; that of the levels stays with the client. W takes plain steps.

References:
  Zhang, Hua, Wang, Song, Xue, Ma, Guan, FedALA: Adaptive Local Aggregation for
  Personalized Federated Learning, 2023.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks, random_keys
from quped_jax.data.federation import ClientData
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  divided,
  local_steps,
  messages,
  partial,
)
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedalaOptions:
  """Settings of FedALA.

  Attributes:
    layers: how many of the model's last blocks are mixed; 1 for the last layer.
    weight_steps: steps of W in a round, on a batch each.
    start_steps: those in a client's second round, when W is still 1.
    weight_learning_rate: a, the step size of W; 0 is FedAvg.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  layers: int = 1
  weight_steps: int = 5
  start_steps: int = 50
  weight_learning_rate: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.at_least("fedala.layers", self.layers, 1)
    checks.at_least("fedala.weight_steps", self.weight_steps, 0)
    checks.at_least("fedala.start_steps", self.start_steps, 1)
    checks.not_negative(
      "fedala.weight_learning_rate", self.weight_learning_rate
    )
    checks.choice("fedala.weighting", self.weighting, api.WEIGHTINGS)


class FedalaClient(NamedTuple):
  """What stays with a client.

  Attributes:
    levels: the levels of its quantized model.
    own: v, `optax.MaskedNode()` in the layers that are not mixed.
    weights: W, likewise.
    rounds: int32 `[]`, how many rounds it has taken part in.
  """

  levels: averaging.Levels
  own: Any
  weights: Any
  rounds: jax.Array


def mixture(shared: Any, own: Any, weights: Any) -> Any:
  """w + (1 - W) (v - w), leaf by leaf: w itself, bit for bit, where W is 1."""
  return jax.tree.map(
    lambda w, v, x: w + (1 - x) * (v - w), shared, own, weights
  )


def make_fedala(
  models: api.Models,
  training: Training,
  options: FedalaOptions,
) -> api.FederatedMethod:
  """Makes FedALA.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without so many blocks.
  """
  base = averaging.averaging_method(
    "fedala", models, training, weighting=options.weighting
  )
  model = models.shared
  quantized = training.max_levels is not None
  most = max(options.start_steps, options.weight_steps)

  def parts(params):
    """The layers that are not mixed, and those that are."""
    is_mixed = divided.last_blocks(
      "fedala.layers", options.layers, model, params
    )
    return (
      partial.prune(params, is_mixed, False),
      partial.prune(params, is_mixed),
    )

  def mixed_model(shared, client):
    rest, upper = parts(shared.params)
    upper = mixture(upper, client.own, client.weights)
    return shared._replace(params=partial.merge(rest, upper))

  def learned(shared, client, data: ClientData, context):
    """The client's new W."""
    rest, upper = parts(shared.params)
    key = jax.random.fold_in(context.key, random_keys.FEDALA_WEIGHTS)
    positions = data.draw(key, most, training.batch_size)

    def step(index, weights):
      batch = data.train_batch(jax.random.fold_in(key, index), positions[index])
      objective = training.label_objective(model, batch)

      def loss(upper):
        return objective(partial.merge(rest, upper), shared.stats)[0]

      grads = jax.grad(loss)(mixture(upper, client.own, weights))
      return jax.tree.map(
        lambda x, g, w, v: jnp.clip(
          x - options.weight_learning_rate * g * (w - v), 0, 1
        ),
        weights,
        grads,
        upper,
        client.own,
      )

    steps = jnp.where(
      client.rounds > 1, options.weight_steps, options.start_steps
    )
    steps = jnp.where(client.rounds > 0, steps, 0)
    return jax.lax.fori_loop(0, steps, step, client.weights)

  def init_client(key, inputs, server, client_id, spec, cohort):
    levels = base.init_client(key, inputs, server, client_id, spec, cohort)
    _, own = parts(server.params)
    ones = jax.tree.map(jnp.ones_like, own)
    return FedalaClient(levels, own, ones, jnp.int32(0))

  def client_update(download, client, data, context, cohort):
    del cohort
    # In the first round this leaves W at 1, and the mixture is w.
    weights = learned(download, client, data, context)
    start = mixed_model(download, client._replace(weights=weights))
    learner, metrics = local_steps.train(
      training,
      averaging.resume(training, start, client),
      lambda batch: training.label_objective(model, batch),
      data,
      context,
    )
    new = FedalaClient(
      averaging.keep(learner),
      parts(learner.params)[1],
      weights,
      client.rounds + 1,
    )
    return api.ClientResult(
      new,
      averaging.difference(learner, download),
      messages.client_weight(options.weighting, data),
      metrics,
    )

  def variants(server, client, data, context, cohort):
    del cohort
    shared = averaging.copy_for(server, context.spec)
    mixed = mixed_model(shared, client)
    learner = averaging.resume(training, mixed, client)
    trained = training.alternating.current(learner, context.rates)
    result = {
      "personalized": (*trained, model),
      "global": (shared.params, shared.stats, model),
    }
    if quantized:
      result["quantized"] = training.quantized_variant(
        model, learner, data, context
      )
    return result

  return base.replace(
    init_client=init_client,
    client_update=client_update,
    variants=variants,
    primary_variant="quantized" if quantized else "personalized",
    gradients=training.steps * training.gradients_per_step
    + options.weight_steps,
  )
