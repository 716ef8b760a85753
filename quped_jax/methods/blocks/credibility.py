"""Clients that distil from the global model what it is credible about.

The server judges its model on its labelled public set: how well it knows each
class. Clients distil from it, class by class, by the squared distance of
logits, with weights that follow from that.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  messages,
  personal,
  predictions,
  requirements,
)
from quped_jax.methods.blocks.training import Training

# `(credibility [classes], taught logits [batch, classes], labels [batch]) ->
# weights`, which are broadcast to `[batch, classes]`.
Weigh = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class CredibilityOptions:
  """Settings of methods that distil by credibility.

  Attributes:
    method: the method's name, for errors.
    strength: m, the weight of the logit of a class that the global model knows
      perfectly, at least 0; 0 is FedAvg.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  method: ClassVar[str]

  strength: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative(f"{self.method}.strength", self.strength)
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


class Judged(NamedTuple):
  """The server's state, and its download.

  Attributes:
    model: the GlobalModel.
    credibility: M, float32 `[classes]`; zero until the server has judged a
      model that clients have trained.
  """

  model: api.GlobalModel
  credibility: jax.Array


def of_classes(logits: jax.Array, labels: jax.Array) -> jax.Array:
  r"""How credible a model is for each class.

  .. math:: M_c = A_{cc} \, (1 - \max_{j \ne c} A_{jc})

  with A_jc the share of class j that the model takes for class c: it should
  know c, and take no other class for it. A class without samples has M = 0.

  Args:
    logits: `[samples, classes]`.
    labels: int `[samples]`.

  Returns:
    float32 `[classes]`, from 0 to 1.
  """
  classes = logits.shape[-1]
  true = jax.nn.one_hot(labels, classes)
  predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes)
  confusion = jnp.matmul(true.T, predicted, precision="highest")
  counts = jnp.sum(true, axis=0)[:, None]
  shares = confusion / jnp.maximum(counts, 1.0)
  same = jnp.eye(classes, dtype=bool)
  mistaken = jnp.max(jnp.where(same, 0.0, shares), axis=0)
  return jnp.diagonal(shares) * (1 - mistaken)


def weighted_distance(
  taught: jax.Array, logits: jax.Array, weights: jax.Array
) -> jax.Array:
  """Mean over the batch of the squares of weighted differences of logits.

  Args:
    taught: the teacher's logits, `[batch, classes]`.
    logits: the student's, likewise.
    weights: likewise, or one for each class in all samples, `[1, classes]`.
  """
  squares = jnp.square(weights * (taught - logits))
  return jnp.mean(jnp.sum(squares, axis=-1))


def credibility_method(
  models: api.Models,
  training: Training,
  options: CredibilityOptions,
  federation: Federation,
  weigh: Weigh,
) -> api.FederatedMethod:
  """FedAvg, with clients that distil from w what it is credible about.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.
    weigh: the weights of the teacher's logits, of which the strength m takes
      the product.

  Raises:
    ValueError: no labelled public set, labels that are no classes, or a cohort
      with another architecture.
  """
  name, model = options.method, models.shared
  requirements.check_public(name, federation, labelled=True)
  requirements.check_classes(name, training, "it judges w class by class")

  def local_loss(download, batch, context):
    del context
    taught = averaging.predict(model, download.model, batch)
    weights = weigh(download.credibility, taught, batch.labels)

    def term(logits):
      return weighted_distance(taught, logits, options.strength * weights)

    return averaging.with_term(training, model, batch, term)

  method = averaging.averaging_method(
    name,
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
  )

  def init_server(key, inputs):
    shared = method.init_server(key, inputs)
    return Judged(shared, jnp.zeros(federation.num_classes))

  def broadcast(server, context, cohort):
    return server._replace(model=method.broadcast(server, context, cohort))

  def server_update(server, aggregates, context):
    new = personal.add_mean(server, aggregates, context)
    data = context.public.data()
    logits = predictions.predict(model, new.model.params, new.model.stats, data)
    labels = context.public.source.labels
    new = new._replace(credibility=of_classes(logits, labels))
    return messages.if_heard(aggregates, new, server)

  return method.replace(
    init_server=init_server, broadcast=broadcast, server_update=server_update
  )
