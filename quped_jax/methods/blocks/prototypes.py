r"""Building block of methods whose clients exchange prototypes.

A prototype is a vector of features, the input of the last layer, that stands
for a class. No model travels. Clients learn from labels and from the distance
of features z to the prototypes P that they receive,

.. math:: \mathrm{CE} + \lambda \operatorname{mean}_{b,j} (z_{bj} - P_{y_b j})^2

over the samples b of a batch and the features j; a sample of a class without a
prototype contributes zero. Then they send the means of their own features by
class.

Down: the prototypes, and which are known. Up: the class means, and the numbers
of samples. "personalized" is a client's own model. "prototypes" takes the class
of the nearest prototype: that is a last layer of its own, since
-|z - P|^2 = 2 P z - |P|^2 - |z|^2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.data.federation import ClientData, Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  divided,
  local_steps,
  personal,
  predictions,
  reports,
  requirements,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, training_pass
from quped_jax.models.base import HEAD


class Prototypes(NamedTuple):
  """The server's prototypes.

  Attributes:
    means: `[classes, width]`; zero where there is none.
    known: bool `[classes]`, which classes have one.
  """

  means: jax.Array
  known: jax.Array


class ClassMeans(NamedTuple):
  """What a client sends.

  Attributes:
    means: `[classes, width]`, mean features; zero for a class without samples.
    counts: float32 `[classes]`, its number of training samples per class.
  """

  means: jax.Array
  counts: jax.Array


def nothing_known(classes: int, width: int) -> Prototypes:
  """No prototypes."""
  return Prototypes(jnp.zeros((classes, width)), jnp.zeros(classes, bool))


def mean_of(sums: jax.Array, counts: jax.Array) -> jax.Array:
  """Sums `[classes, width]` over counts `[classes]`; zero where these are."""
  held = counts > 0
  return jnp.where(held[:, None], sums / jnp.where(held, counts, 1)[:, None], 0)


def class_means(
  model: Model, params: Any, stats: Any, data: ClientData, classes: int
) -> ClassMeans:
  """Means by class of a model's features of all training samples.

  Args:
    model: a split network.
    params: its parameters.
    stats: its running statistics, which are not updated.
    data: the samples.
    classes: the number of classes.
  """
  body = divided.body(model)

  def say(batch):
    return body.apply(params, stats, batch.inputs, False)[0], batch.labels

  features, labels = predictions.map_batches(say, data)
  real = jnp.arange(labels.shape[0]) < data.train.count
  chosen = jax.nn.one_hot(labels, classes) * real[:, None]
  counts = jnp.sum(chosen, axis=0)
  sums = jnp.matmul(chosen.T, features, precision="highest")
  return ClassMeans(mean_of(sums, counts), counts)


def squared_distance(
  features: jax.Array, labels: jax.Array, prototypes: Prototypes
) -> jax.Array:
  """Mean over batch and width of the squared distances; see above.

  Args:
    features: `[batch, width]`.
    labels: int `[batch]`.
    prototypes: of all classes; constant.
  """
  chosen = jax.nn.one_hot(labels, len(prototypes.known), dtype=features.dtype)
  chosen *= prototypes.known[None]
  targets = jnp.matmul(chosen, prototypes.means, precision="highest")
  counts = jnp.sum(chosen, axis=1, keepdims=True)
  return jnp.mean(counts * jnp.square(features - targets))


def nearest(prototypes: Prototypes) -> dict[str, jax.Array]:
  """The last layer whose largest logit is that of the nearest prototype."""
  means = prototypes.means
  bias = jnp.where(prototypes.known, -jnp.sum(means**2, axis=1), -1e9)
  return {"kernel": 2 * means.T, "bias": bias}


def plausible(message: ClassMeans, samples: Any) -> Any:
  """See `api.Plausible`; any features may be true."""
  counts = reports.are_counts(message.counts, samples)
  return message._replace(means=True, counts=counts)


def prototype_method(
  method: str,
  models: api.Models,
  training: Training,
  federation: Federation,
  *,
  weight: float,
) -> tuple[api.FederatedMethod, int, int]:
  """A method whose clients exchange prototypes; the server is the method's own.

  Its state is Prototypes, or a NamedTuple with a field `prototypes`.

  Args:
    method: the method's name, for errors.
    models: the networks of the cohorts, all with the same number of features.
    training: how clients train.
    federation: has the samples.
    weight: lambda, weight of the distance to the prototypes.

  Returns:
    The method without its server, and the numbers of features and of classes.

  Raises:
    ValueError: labels that are no classes, a model whose head is no dense layer
      with a bias, or another number of features than the others have.
  """
  requirements.check_classes(method, training, "a class has a prototype")
  width, classes = divided.check_linear(
    method, models.clients, federation, training
  )

  def known_to(server) -> Prototypes:
    return server if isinstance(server, Prototypes) else server.prototypes

  def broadcast(server, context, cohort):
    del context, cohort
    return known_to(server)

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    body = divided.body(model)
    head: Any = model.head

    def objective(batch):
      def loss(params, stats):
        features, stats = training_pass(body, params, stats, batch)
        apart = squared_distance(features, batch.labels, download)
        labels = training.loss(head(params, features), batch.labels)
        return labels + weight * apart, stats

      return loss

    learner, metrics = local_steps.train(
      training, client, objective, data, context
    )
    trained = training.alternating.current(learner, context.rates)
    message = class_means(model, *trained, data, classes)
    return api.ClientResult(learner, message, 1.0, metrics)

  base = personal.personal_method(
    models,
    training,
    client_update,
    gradients=training.steps * training.gradients_per_step,
    shares_model=False,
  )

  def variants(server, client, data, context, cohort):
    found = base.variants(server, client, data, context, cohort)
    prototypes = known_to(server)
    params, stats, model = found["personalized"]
    own = divided.head_params(params)[HEAD]
    last = jax.tree.map(
      lambda new, old: jnp.where(jnp.any(prototypes.known), new, old),
      nearest(prototypes),
      own,
    )
    return {**found, "prototypes": ({**params, HEAD: last}, stats, model)}

  made = base.replace(
    broadcast=broadcast, variants=variants, plausible=plausible
  )
  return made, width, classes
