r"""FedGKT: small clients and one large network at the server teach each other.

A client has a small network: a feature extractor and a head. The server has a
large network that takes features. Both learn from labels and from each other's
logits: with u the client's logits and v the server's,

.. math::
  \text{client:} \; \mathrm{CE}(u, y)
    + \beta T^2 \mathrm{KL}(\sigma(v / T) \| \sigma(u / T)), \qquad
  \text{server:} \; \mathrm{CE}(v, y)
    + \beta T^2 \mathrm{KL}(\sigma(u / T) \| \sigma(v / T)).

Down: the server's logits for the client's own training samples. Up: features,
logits and labels of all its training samples. All of them travel padded to the
largest client's number of samples, and the padding counts as traffic. The
server trains on what it received in the round; absent clients keep the logits
that they had.

A client's model is its extractor followed by the server's network. Quantized
clients train by the alternating steps. They send the features and logits of the
weights in training, while "quantized" is the server's network on the features
of the quantized extractor.

Left out: the server's convolutions on feature maps. Here its network has dense
layers, on the input of the client's last layer.

Optimizer states: those of the client's own weights and levels stay with it;
that of the server's network stays at the server.

References:
  He, Annavaram, Avestimehr, Group Knowledge Transfer: Federated Learning of
  Large CNNs at the Edge, 2020.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  divided,
  local_steps,
  messages,
  personal,
  predictions,
  reports,
  requirements,
)
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.models import (
  NamedNetwork,
  create_named,
  stack,
  training_pass,
)
from quped_jax.quantization import optimizers


@dataclasses.dataclass(frozen=True)
class FedgktOptions:
  """Settings of FedGKT.

  Attributes:
    weight: beta, weight of the divergence from the other side's logits; the
      loss on labels has weight 1.
    temperature: T, by which logits are divided.
    hidden: widths of the server's hidden layers.
    server_steps: steps of the server per round, each on a batch of the clients'
      batch size.
    server_learning_rate: step size of these steps.
    server_optimizer: their optimizer: "sgd", "momentum", "adam" or "adamw".
  """

  weight: float = api.traced(1.0)
  temperature: float = api.traced(3.0)
  hidden: tuple[int, ...] = (256, 256)
  server_steps: int = 50
  server_learning_rate: float = api.traced(1e-3)
  server_optimizer: str = "adam"

  def __post_init__(self):
    checks.not_negative("fedgkt.weight", self.weight)
    checks.positive("fedgkt.temperature", self.temperature)
    for width in self.hidden:
      checks.at_least("fedgkt.hidden", width, 1)
    server_lib.check_steps("fedgkt", self, "server", smallest=1)


class FedgktServer(NamedTuple):
  """State of the server.

  Attributes:
    network: parameters of the server's network.
    opt_state: state of their optimizer.
    logits: its logits for all clients' training samples, `[clients, max_count,
      classes]`; all zero for a client that it has not heard from yet.
  """

  network: Any
  opt_state: Any
  logits: jax.Array


class FedgktMessage(NamedTuple):
  """What a client sends about its training samples.

  Attributes:
    features: `[max_count, width]`; rows from `count` on are padding.
    logits: `[max_count, classes]`, likewise.
    labels: int32 `[max_count]`, likewise.
    count: int32 `[]`, its number of samples.
  """

  features: jax.Array
  logits: jax.Array
  labels: jax.Array
  count: jax.Array


def make_fedgkt(
  models: api.Models,
  training: Training,
  options: FedgktOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedGKT.

  Args:
    models: the networks of the cohorts, all with the same number of features.
    training: how clients train.
    options: the method's own settings.
    federation: has the number of clients and of their training samples.

  Raises:
    ValueError: labels are no classes; a cohort's model has no features, or not
      as many as the others.
  """
  requirements.check_classes(
    "fedgkt", training, "clients send logits and the classes of their samples"
  )
  num_clients, most = federation.num_clients, federation.train.max_count
  width, classes = divided.check_alike("fedgkt", models.clients, federation)
  named = NamedNetwork("mlp", classes, (("features", tuple(options.hidden)),))
  network = create_named(named)
  optimizer = optimizers.base_optimizer(options.server_optimizer)
  wholes = {
    cohort: stack(model, named) for cohort, model in models.clients.items()
  }

  def teach(loss, teacher, logits):
    """Adds the loss of distillation, unless there is no teacher yet."""
    taught = training.divergence(teacher, logits, options.temperature)
    known = jnp.any(teacher != 0)
    return loss + jnp.where(known, options.weight * taught, 0.0)

  def init_server(key, inputs):
    del inputs
    params, _ = network.init(key, jnp.zeros((1, width)))
    table = jnp.zeros((num_clients, most, classes))
    return FedgktServer(params, optimizer.init(params), table)

  def broadcast(server, context, cohort):
    del cohort
    return server.logits[context.client_id]

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    divide: Any = model.features
    head: Any = model.head

    def step(learner, batch, teacher):
      def objective(params, stats):
        logits, stats = training_pass(model, params, stats, batch)
        return teach(
          training.loss(logits, batch.labels), teacher, logits
        ), stats

      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )
      return learner, {"loss": loss}

    learner, metrics = local_steps.run(
      step, client, data, context, training, beside=download
    )
    params, stats = training.alternating.current(learner, context.rates)

    def say(batch):
      features, _ = divide(params, stats, batch.inputs, False)
      return features, head(params, features), batch.labels

    features, logits, labels = predictions.map_batches(say, data)
    message = FedgktMessage(features, logits, labels, data.train.count)
    return api.ClientResult(learner, message, 1.0, metrics)

  def receive(server, message, weight, context, cohort):
    # Everything is collected; there is nothing to sum.
    return api.weighted_sum(server, (), weight, context, cohort)

  def plausible(message, samples):
    return message._replace(
      features=True,
      logits=True,
      labels=reports.are_labels(message.labels, message.count, classes),
      count=(message.count >= 0) & (message.count <= samples),
    )

  def server_update(server, aggregates, context):
    clients, sent, weights = server_lib.all_collected(aggregates)
    counts = jnp.where(weights > 0, sent.count, 0)
    received = server_lib.receive_samples(sent.features, sent.labels, counts)
    teachers = sent.logits.reshape(-1, classes)[received.rows]

    def loss(params, stats, positions):
      batch = received.real.batch(positions)
      logits, _ = training_pass(network, params, {}, batch)
      labels = training.loss(logits, batch.labels)
      return teach(labels, teachers[positions], logits), stats

    learned, opt_state = server_lib.descend(
      optimizer,
      options.server_learning_rate,
      loss,
      api.GlobalModel(server.network, {}),
      server.opt_state,
      received.real.draw(
        context.key, options.server_steps, training.batch_size
      ),
    )
    logits = predictions.predict(
      network, learned.params, {}, received.everything
    )
    # An empty slot writes past the end of the table, so it is dropped.
    target = jnp.where(counts > 0, clients, num_clients)
    table = server.logits.at[target].set(
      logits.reshape(-1, most, classes), mode="drop"
    )
    new = FedgktServer(learned.params, opt_state, table)
    return messages.if_heard(aggregates, new, server)

  def variants(server, client, data, context, cohort):
    model, whole = models.clients[cohort], wholes[cohort]

    def then_server(params, stats):
      return {"client": params, "server": server.network}, stats, whole

    quantized = training.quantized_variant(model, client, data, context)
    trained = training.alternating.current(client, context.rates)
    return {
      "personalized": then_server(*trained),
      "quantized": then_server(*quantized[:2]),
    }

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=training.steps * training.gradients_per_step,
    shares_model=False,
  )
  return method.replace(
    init_server=init_server,
    broadcast=broadcast,
    server_update=server_update,
    variants=variants,
    receive=receive,
    collect=lambda message, context: message,
    plausible=plausible,
  )
