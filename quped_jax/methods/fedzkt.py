r"""FedZKT: zero-shot knowledge transfer between clients of any architecture.

The server has no samples. Each round it trains a generator G and a model F
against each other: from Gaussian noise e, G makes inputs on which F and the
ensemble of the clients' models f_k differ most, and F learns the ensemble
there,

.. math::
  \min_F \max_G \; \operatorname{mean}_e \Big|\mathrm{softmax}\, F(v)
    - \operatorname{mean}_k \mathrm{softmax}\, f_k(v)\Big|_1, \quad v = G(e).

Then each f_k that was heard learns F on inputs of G by the same distance, and
is what its client receives next. A client i starts from what it receives, z_i,
and stays close to it,

.. math:: \min_{x_i} \; \mathrm{CE}(x_i) + \tfrac{\mu}{2} |x_i - z_i|^2.

Down: the client's own model, as the server changed it. Up: the difference after
the local steps. The server keeps the models of all clients. "personalized" is
a client's model after its local steps, "global" is F.

Quantized clients minimise this at x and at Q(x), with levels of their own that
stay with them; the server sees x. By estimators with latent weights, these stay
close, and not the levels at which the network runs. In the fine-tuning phase,
in which weights stay on their levels, clients no longer start from what they
receive, though the proximal term still draws their levels to it. Inputs must be
such that a network is differentiable in them: not tokens, say.

From memory of the paper, which was not checked against its code; the optimizers
and numbers of steps are ours. Left out: the paper's comparison of distances. A
public implementation of the proximal term shrinks the step size instead, by
1 + beta times it.

Optimizer states: those of the client's own weights and levels stay with it;
those of the server's networks start afresh each round.

References:
  Zhang, Wu, Yuan, FedZKT: Zero-Shot Knowledge Transfer towards
  Resource-Constrained Federated Learning with Heterogeneous On-Device Models,
  2022.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks, random_keys
from quped_jax.data.federation import Batch, Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  centers,
  local_steps,
  messages,
  personal,
  requirements,
  trees,
)
from quped_jax.methods.blocks import generator_inputs as inputs_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, pass_keys, training_pass
from quped_jax.quantization import alternating, optimizers


@dataclasses.dataclass(frozen=True)
class FedzktOptions(inputs_lib.TurnsOptions):
  """Settings of FedZKT, in addition to those of `TurnsOptions`.

  Attributes:
    iterations: how often generator and F take turns in a round.
    transfer_steps: steps of each client's model on what F says, with the
      optimizer and the step size of F.
    mu: weight of the clients' proximal term.
  """

  method: ClassVar[str] = "fedzkt"

  iterations: int = 20
  transfer_steps: int = 50
  mu: float = api.traced(0.1)

  def __post_init__(self):
    super().__post_init__()
    checks.at_least("fedzkt.transfer_steps", self.transfer_steps, 0)
    checks.not_negative("fedzkt.mu", self.mu)


class FedzktServer(NamedTuple):
  """State of the server.

  Attributes:
    model: F, a GlobalModel.
    generator: parameters of G.
    clients: {cohort: GlobalModel of arrays `[clients, ...]`}, what each client
      receives next; of the rows only those of the cohort's clients are used.
  """

  model: api.GlobalModel
  generator: Any
  clients: dict[str, api.GlobalModel]


def distance(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean absolute distance of softmax outputs from probabilities.

  Args:
    logits: `[batch, classes]`.
    targets: `[batch, classes]`.
  """
  apart = jnp.abs(jax.nn.softmax(logits) - targets)
  return jnp.mean(jnp.sum(apart, axis=-1))


def make_fedzkt(
  models: api.Models,
  training: Training,
  options: FedzktOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedZKT.

  Args:
    models: the networks of the cohorts, and F, of any architectures.
    training: how clients train.
    options: the method's own settings.
    federation: has the number of clients, and the shape of the inputs.

  Raises:
    ValueError: a loss that is not over classes; a network of tokens.
  """
  requirements.check_classes(
    "fedzkt", training, "its server compares softmax outputs"
  )
  requirements.check_follows_inputs(
    "fedzkt", models.shared, federation.example()
  )
  num_clients = federation.num_clients
  made = inputs_lib.make_input_generator(options, federation)
  optimizer = optimizers.base_optimizer(options.generator_optimizer)
  model_optimizer = optimizers.base_optimizer(options.distill_optimizer)

  def init_server(key, inputs):
    def rows(model):
      return jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_clients, *x.shape)),
        api.GlobalModel(*model.init(key, inputs)),
      )

    return FedzktServer(
      api.GlobalModel(*models.shared.init(key, inputs)),
      made.init(jax.random.fold_in(key, random_keys.INPUT_GENERATOR)),
      {cohort: rows(model) for cohort, model in models.clients.items()},
    )

  def broadcast(server, context, cohort):
    return jax.tree.map(lambda x: x[context.client_id], server.clients[cohort])

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    learner, latent = client, False
    if client.assignments is None:
      learner = client._replace(params=download.params, stats=download.stats)
      latent = training.alternating.latent

    def pull(params):
      return trees.pull(params, download.params, options.mu)

    def objective(batch):
      from_labels = training.label_objective(model, batch)

      def loss(params, stats):
        loss, stats = from_labels(params, stats)
        apart = trees.squared_distance(params, download.params)
        return loss + options.mu / 2 * apart, stats

      return from_labels if latent else loss

    learner, metrics = local_steps.train(
      training,
      learner,
      objective,
      data,
      context,
      correction=pull if latent else None,
    )
    reached = api.GlobalModel(*alternating.current(learner))
    message = trees.difference(reached, download)
    return api.ClientResult(learner, message, 1.0, metrics)

  def receive(server, message, weight, context, cohort):
    # Everything is collected; there is nothing to sum.
    del message
    return api.weighted_sum(server, (), weight, context, cohort)

  def learn(
    model: Model, student: Any, opt_state: Any, xs: Any, key: Any
  ) -> tuple[api.GlobalModel, Any]:
    """Steps of a model on inputs and targets, arrays `[steps, batch, ...]`."""

    def loss(params, stats, x):
      inputs, targets, own = x
      batch = Batch(inputs, targets, own)
      logits, stats = training_pass(model, params, stats, batch)
      return distance(logits, targets), stats

    keys = pass_keys(model, key, xs[0].shape[0])
    return server_lib.descend(
      model_optimizer,
      options.distill_learning_rate,
      loss,
      student,
      opt_state,
      (*xs, keys),
    )

  def take_turns(ensemble, carry, key):
    """A turn of G, and one of F, on a batch of noise."""
    student, model_state, generator, state = carry
    noise_key, model_key = jax.random.split(key)
    noise = made.noise(noise_key, training.batch_size)

    def loss(params, stats, _):
      inputs = made.inputs(params, noise)
      logits = inputs_lib.logits_of(models.shared, student, inputs)
      return -distance(logits, ensemble(inputs)), stats

    own, state = server_lib.descend(
      optimizer,
      options.generator_learning_rate,
      loss,
      api.GlobalModel(generator, {}),
      state,
      jnp.arange(options.generator_steps),
    )
    inputs = made.inputs(own.params, noise)
    xs = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (options.distill_steps, *x.shape)),
      (inputs, ensemble(inputs)),
    )
    student, model_state = learn(
      models.shared, student, model_state, xs, model_key
    )
    return (student, model_state, own.params, state), None

  def transfer(model, received, heard, xs, key):
    """The models of a cohort, once those that were heard have learned F."""

    def one(slot):
      counts, student = slot

      def go():
        state = model_optimizer.init(student.params)
        return learn(model, student, state, xs, key)[0]

      return jax.lax.cond(counts, go, lambda: student)

    return jax.lax.map(one, (heard, received))

  def server_update(server, aggregates, context):
    key = jax.random.fold_in(context.key, random_keys.INPUT_GENERATOR)
    key, noise_key, model_key = jax.random.split(key, 3)
    heard = {c: centers.senders(a.collected) for c, a in aggregates.items()}

    def receive_models(cohort):
      collected = aggregates[cohort].collected
      before = jax.tree.map(
        lambda x: x[collected.clients], server.clients[cohort]
      )
      return jax.vmap(messages.add)(before, collected.parts)

    received = {cohort: receive_models(cohort) for cohort in aggregates}
    count = sum(jnp.sum(sent) for sent in heard.values())

    def ensemble(inputs):
      def of(cohort):
        def say(teacher, _):
          return jax.nn.softmax(
            inputs_lib.logits_of(models.clients[cohort], teacher, inputs)
          )

        return inputs_lib.sum_over_teachers(
          say, received[cohort], heard[cohort]
        )

      return sum(of(cohort) for cohort in received) / jnp.maximum(count, 1)

    (model, _, generator, _), _ = jax.lax.scan(
      lambda carry, key: take_turns(ensemble, carry, key),
      (
        server.model,
        model_optimizer.init(server.model.params),
        server.generator,
        optimizer.init(server.generator),
      ),
      jax.random.split(key, options.iterations),
    )

    def lesson(key):
      inputs = made.inputs(generator, made.noise(key, training.batch_size))
      logits = inputs_lib.logits_of(models.shared, model, inputs)
      return inputs, jax.nn.softmax(logits)

    if options.transfer_steps:
      lessons = jax.lax.map(
        lesson, jax.random.split(noise_key, options.transfer_steps)
      )
      received = {
        cohort: transfer(
          models.clients[cohort], own, heard[cohort], lessons, model_key
        )
        for cohort, own in received.items()
      }

    def write(cohort, rows):
      # An empty slot writes past the end of the table, so it is dropped.
      ids = aggregates[cohort].collected.clients
      target = jnp.where(heard[cohort], ids, num_clients)
      return jax.tree.map(
        lambda table, x: table.at[target].set(x, mode="drop"),
        server.clients[cohort],
        rows,
      )

    clients = {cohort: write(cohort, rows) for cohort, rows in received.items()}
    new = FedzktServer(model, generator, clients)
    return messages.if_heard(aggregates, new, server)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=training.steps * training.gradients_per_step,
  )
  return method.replace(
    init_server=init_server,
    broadcast=broadcast,
    server_update=server_update,
    receive=receive,
    collect=lambda message, context: message,
    averages=False,
    server_moves=lambda server: (server.model.params, server.generator),
  )
