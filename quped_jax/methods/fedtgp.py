r"""FedTGP: FedProto with prototypes that the server trains to stay apart.

Clients do what they do in FedProto: they learn from labels and from lambda
times the mean squared distance of their features to the prototypes, and send
their mean features p by class. The server does not average these, since means
over different clients' features come close to each other. It has a network that
makes the prototype T_c of each class c, from an embedding of c by two dense
layers, and trains it on what was sent, pairs of p and its class y:

.. math::
  \mathrm{CE}\big((-\|p - T_c\| - \delta \, [c = y])_c, \; y\big), \qquad
  \delta = \min\Big(\max_c \min_{c' \ne c} \|\bar p_c - \bar p_{c'}\|, \;
    \tau\Big)

with mean p of class c over clients in the margin delta: p must be nearer to its
own prototype than to any other by more than the margin.

Down: the prototypes. Up: the client's mean features by class, and its numbers
of samples. Once anything was sent, all classes have prototypes; before, clients
train alone. "personalized" is a client's own model, "prototypes" its features
with the nearest prototype. Quantized clients minimise their loss at x and at
Q(x); they send the features of the weights in training.

The released code takes 100 epochs at the server, with the clients' step size;
here steps are counted, each on a batch of what was sent. Where fewer than two
classes were sent, its margin is tau; here it is 0.

Optimizer states: those of the client's own weights and levels stay with it;
that of the server's network starts afresh each round.

References:
  Zhang, Liu, Hua, Cao, FedTGP: Trainable Global Prototypes with Adaptive-
  Margin-Enhanced Contrastive Learning for Data and Model Heterogeneity in
  Federated Learning, 2024.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from quped_jax import checks
from quped_jax.data.federation import Batch, Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import messages
from quped_jax.methods.blocks import prototypes as prototypes_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.prototypes import Prototypes
from quped_jax.methods.blocks.training import Training
from quped_jax.models import from_linen, training_pass
from quped_jax.quantization import optimizers


@dataclasses.dataclass(frozen=True)
class FedtgpOptions:
  """Settings of FedTGP.

  Attributes:
    weight: lambda, weight of the distance to the prototypes; 0 is local
      training.
    margin: tau, the largest margin.
    server_steps: steps of the server per round, each on a batch of the clients'
      batch size.
    server_learning_rate: step size of these steps.
    server_optimizer: their optimizer: "sgd", "momentum", "adam" or "adamw".
  """

  weight: float = api.traced(10.0)
  margin: float = api.traced(100.0)
  server_steps: int = 100
  server_learning_rate: float = api.traced(0.01)
  server_optimizer: str = "sgd"

  def __post_init__(self):
    checks.not_negative("fedtgp.weight", self.weight)
    checks.not_negative("fedtgp.margin", self.margin)
    server_lib.check_steps("fedtgp", self, "server", smallest=1)


class FedtgpServer(NamedTuple):
  """State of the server.

  Attributes:
    network: parameters of the network that makes the prototypes.
    prototypes: the Prototypes that it made last.
  """

  network: Any
  prototypes: Prototypes


class PrototypeNetwork(nn.Module):
  """Prototypes of classes, from an embedding by two dense layers."""

  classes: int
  width: int

  @nn.compact
  def __call__(self, labels):
    embed = nn.Embed(
      self.classes, self.width, embedding_init=nn.initializers.normal(1.0)
    )
    x = nn.Dense(self.width, name="first")(embed(labels))
    return nn.Dense(self.width, name="last")(nn.relu(x))


def distances(first: jax.Array, second: jax.Array) -> jax.Array:
  """Euclidean distances `[n, m]` of rows `[n, width]` and `[m, width]`."""
  squares = jnp.sum(jnp.square(first[:, None] - second[None]), axis=-1)
  # The root has no gradient at 0.
  return jnp.sqrt(jnp.maximum(squares, 1e-12))


def largest_gap(means: jax.Array, held: jax.Array) -> jax.Array:
  """The largest distance of a class to the one nearest to it.

  Args:
    means: `[clients, classes, width]`, mean features.
    held: bool `[clients, classes]`, which of them are any client's.

  Returns:
    `[]`; 0 if fewer than two classes are held.
  """
  weights = held.astype(means.dtype)
  center = prototypes_lib.mean_of(
    jnp.sum(weights[..., None] * means, axis=0), jnp.sum(weights, axis=0)
  )
  any_held = jnp.any(held, axis=0)
  pairs = any_held[:, None] & any_held[None]
  pairs &= ~jnp.eye(len(any_held), dtype=bool)
  apart = jnp.where(pairs, distances(center, center), jnp.inf)
  gaps = jnp.min(apart, axis=1)
  return jnp.max(jnp.where(jnp.isfinite(gaps), gaps, 0.0))


def margin_loss(
  features: jax.Array, labels: jax.Array, prototypes: jax.Array, margin: Any
) -> jax.Array:
  """The server's loss on features `[batch, width]` and their classes."""
  own = jax.nn.one_hot(labels, prototypes.shape[0])
  logits = -distances(features, prototypes) - margin * own
  return jnp.mean(optax.softmax_cross_entropy(logits, own))


def make_fedtgp(
  models: api.Models,
  training: Training,
  options: FedtgpOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedTGP.

  Args:
    models: the networks of the cohorts, all with the same number of features.
    training: how clients train.
    options: the method's own settings.
    federation: has the samples.

  Raises:
    ValueError: labels that are no classes, a model whose head is no dense layer
      with a bias, or another number of features than the others have.
  """
  method, width, classes = prototypes_lib.prototype_method(
    "fedtgp", models, training, federation, weight=options.weight
  )
  network = from_linen(PrototypeNetwork(classes, width), "prototypes")
  everything = jnp.arange(classes, dtype=jnp.int32)
  optimizer = optimizers.base_optimizer(options.server_optimizer)

  def init_server(key, inputs):
    del inputs
    params, _ = network.init(key, everything)
    return FedtgpServer(params, prototypes_lib.nothing_known(classes, width))

  def receive(server, message, weight, context, cohort):
    # Everything is collected; there is nothing to sum.
    return api.weighted_sum(server, (), weight, context, cohort)

  def server_update(server, aggregates, context):
    _, (means, counts), weights = server_lib.all_collected(aggregates)
    held = (counts > 0) & (weights > 0)[:, None]
    # Each client's own classes first, as padding comes last.
    order = jnp.argsort(~held, axis=1, stable=True).astype(jnp.int32)
    received = server_lib.receive_samples(
      jnp.take_along_axis(means, order[..., None], axis=1),
      order,
      jnp.sum(held, axis=1, dtype=jnp.int32),
    ).real
    margin = jnp.minimum(largest_gap(means, held), options.margin)

    def loss(params, stats, positions):
      batch = received.batch(positions)
      made, _ = training_pass(
        network, params, {}, Batch(everything, everything)
      )
      return margin_loss(batch.inputs, batch.labels, made, margin), stats

    learned, _ = server_lib.descend(
      optimizer,
      options.server_learning_rate,
      loss,
      api.GlobalModel(server.network, {}),
      optimizer.init(server.network),
      received.draw(context.key, options.server_steps, training.batch_size),
    )
    made, _ = network.apply(learned.params, {}, everything, False)
    known = Prototypes(made, jnp.ones(classes, bool))
    new = FedtgpServer(learned.params, known)
    return messages.if_heard(aggregates, new, server)

  return method.replace(
    init_server=init_server,
    receive=receive,
    collect=lambda message, context: message,
    server_update=server_update,
    server_moves=lambda server: server.network,
  )
