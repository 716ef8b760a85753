r"""FD, federated distillation: clients exchange mean outputs per label.

No model travels. While a client trains, it sums the softmax outputs of its
model by the labels of its samples. The sums of all *other* clients from the
last round give it their mean output g_y for each label y, and it minimises

.. math:: CE(y, p) + \gamma \, CE(g_y, p).

The second term is dropped for a label that no other client holds, and for all
labels in the first round.

Down: the sums and counts over all clients that took part in the last round, and
the number of that round. Up: the client's own sums and counts. It keeps what it
sent and subtracts it from the next download if it is included there, so the
server need not treat clients individually. In the mean over the others all
samples have equal weight.

As in the paper, the outputs are collected during the local steps, each before
its step. A quantized client learns by alternating steps, and its outputs are
those of its model at x (in the fine-tuning phase, at its levels).

Optimizer states: those of the client's own weights and levels stay with it.

References:
  Jeong, Oh, Kim, Park, Bennis, Kim, Communication-Efficient On-Device Machine
  Learning: Federated Distillation and Augmentation under Non-IID Private Data,
  2018.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  label_outputs,
  local_steps,
  messages,
  personal,
  reports,
  requirements,
)
from quped_jax.methods.blocks.label_outputs import Outputs
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass
from quped_jax.quantization.alternating import Learner


@dataclasses.dataclass(frozen=True)
class FdOptions:
  """Settings of FD.

  Attributes:
    gamma: weight of the loss on the others' outputs, at least 0; the loss on
      labels has weight 1.
  """

  gamma: float = api.traced(0.1)

  def __post_init__(self):
    checks.not_negative("fd.gamma", self.gamma)


class FdServer(NamedTuple):
  """State of the server, and what it sends.

  Attributes:
    outputs: sums over all clients that took part in the last round.
    round: int32 `[]`, the number of that round; -1 for none.
  """

  outputs: Outputs
  round: jax.Array


class FdClient(NamedTuple):
  """State of a client.

  Attributes:
    learner: its model.
    sent: the outputs that it sent last.
    round: int32 `[]`, the round in which it sent them; -1 for none.
  """

  learner: Learner
  sent: Outputs
  round: jax.Array


def others(download: FdServer, client: FdClient) -> Outputs:
  """The sum of what all other clients sent in the last round."""
  is_in = client.round == download.round
  return jax.tree.map(
    lambda total, own: total - jnp.where(is_in, own, 0),
    download.outputs,
    client.sent,
  )


def make_fd(
  models: api.Models,
  training: Training,
  options: FdOptions,
) -> api.FederatedMethod:
  """Makes FD.

  Args:
    models: the networks of the cohorts, of any architectures with the same
      classes.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: labels are no classes.
  """
  requirements.check_classes(
    "fd", training, "clients exchange a mean output for each class"
  )

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    teacher = others(download, client)

    def step(carry, batch):
      learner, sums = carry

      def objective(params, stats):
        logits, stats = training_pass(model, params, stats, batch)
        loss = training.loss(logits, batch.labels)
        taught = label_outputs.taught_loss(logits, batch.labels, teacher)
        return loss + options.gamma * taught, stats

      trained = training.alternating.current(learner, context.rates)
      logits, _ = training_pass(model, *trained, batch)
      sums = jax.tree.map(
        jnp.add, sums, label_outputs.collect(logits, batch.labels)
      )
      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )
      return (learner, sums), {"loss": loss}

    carry = (client.learner, jax.tree.map(jnp.zeros_like, client.sent))
    (learner, sums), metrics = local_steps.run(
      step, carry, data, context, training
    )
    new = FdClient(learner, sums, context.round)
    return api.ClientResult(new, sums, 1.0, metrics)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=training.steps * training.gradients_per_step,
    shares_model=False,
  )

  def nothing(key, inputs):
    model = next(iter(models.clients.values()))
    logits = jax.eval_shape(
      lambda: model.apply(*model.init(key, inputs), inputs, False)[0]
    )
    classes = logits.shape[-1]
    return Outputs(jnp.zeros((classes, classes)), jnp.zeros(classes))

  def init_server(key, inputs):
    return FdServer(nothing(key, inputs), jnp.int32(-1))

  def init_client(key, inputs, *rest):
    learner = method.init_client(key, inputs, *rest)
    return FdClient(learner, nothing(key, inputs), jnp.int32(-1))

  def server_update(server, aggregates, context):
    totals = [a.total for a in aggregates.values()]
    summed = jax.tree.map(lambda *parts: sum(parts), *totals)
    new = FdServer(summed, context.round)
    return messages.if_heard(aggregates, new, server)

  def plausible(message, samples):
    del samples  # A sample counts as often as it is drawn.
    drawn = training.steps * training.batch_size
    return Outputs(
      sums=reports.are_probabilities(message.sums, message.counts),
      counts=reports.are_counts(message.counts, drawn),
    )

  return method.replace(
    init_server=init_server,
    init_client=init_client,
    server_update=server_update,
    plausible=plausible,
  )
