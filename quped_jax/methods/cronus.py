r"""Cronus: clients of any architecture learn from a robust mean of soft labels.

Clients and server know a public set without labels. The server takes, sample by
sample, an average p of the clients' softmax outputs that a few false ones
cannot move far. In each local step a client i learns its own labels and p
together, from a batch of each,

.. math::
  \min_{x_i} \; \mathrm{CE}\big(g_i(u), y\big)
    + \mathrm{KL}\big(p(v) \,\|\, \mathrm{softmax}(g_i(v))\big),

where g are logits, u own and v public samples. The divergence is the cross
entropy to p up to a constant. In the first round there is no p, and clients
learn their own labels alone.

Down: p of the previous round, with the indices of its public samples and of
this round's. Up: the softmax outputs on this round's samples. There is no
global model. Quantized clients take the steps on both losses as alternating
steps; their outputs are those of the weights in training.

From memory of the paper, which was not checked against its code. There, the
average is the filter of Diakonikolas et al. (2017), which is left out: the
median of each class takes its place. Public implementations train on the
largest entry of p as a label; here p is learned as it is. A step sees as many
public samples as own ones; in the paper a client passes through both sets.

Optimizer states: those of the client's own weights and levels stay with it.

References:
  Chang, Shejwalkar, Shokri, Houmansadr, Cronus: Robust and Heterogeneous
  Collaborative Learning with Black-Box Knowledge Transfer, 2019.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from quped_jax import checks, random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  centers,
  local_steps,
  messages,
  personal,
  predictions,
  ranks,
  reports,
  requirements,
  soft_labels,
)
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass

AVERAGES = ("median", "trimmed_mean", "mean")


@dataclasses.dataclass(frozen=True)
class CronusOptions(public_lib.AnswerOptions):
  """Settings of Cronus, in addition to those of `AnswerOptions`.

  Attributes:
    average: what the server takes of the outputs for each sample and class:
      the "median" or the "trimmed_mean", of clients that weigh the same, or the
      "mean", weighted.
    trim: share of the clients that "trimmed_mean" leaves out at either end.
  """

  method: ClassVar[str] = "cronus"

  average: str = "median"
  trim: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    checks.choice("cronus.average", self.average, AVERAGES)
    ranks.check_trim("cronus.trim", self.trim)


def make_cronus(
  models: api.Models,
  training: Training,
  options: CronusOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes Cronus.

  Args:
    models: the networks of the cohorts, of any architectures.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set, and the number of classes.

  Raises:
    ValueError: no public set, or one smaller than `public_samples`; a loss that
      is not over classes.
  """
  requirements.check_classes("cronus", training, "clients send softmax outputs")
  size, samples = public_lib.sizes(options, federation, labelled=False)

  def init_server(key, inputs):
    del inputs
    nothing = jnp.zeros((samples or size, federation.num_classes))
    return public_lib.first_download(key, size, samples, nothing)

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    public = public_lib.with_targets(
      context.public, download.targets, download.rows
    )
    key = jax.random.fold_in(context.key, random_keys.PUBLIC_DISTILLATION)
    positions = public.draw(key, training.steps, training.batch_size)
    known = jnp.any(download.targets != 0)

    def step(carry, batch):
      learner, index = carry
      other = public.batch(positions[index])._replace(
        key=jax.random.fold_in(batch.key, random_keys.PUBLIC_DISTILLATION)
      )
      on_own = training.label_objective(model, batch)

      def objective(params, stats):
        loss, stats = on_own(params, stats)
        logits, after = training_pass(model, params, stats, other)
        taught = public_lib.soft_divergence(logits, other.labels)
        stats = jax.tree.map(lambda a, b: jnp.where(known, a, b), after, stats)
        return loss + jnp.where(known, taught, 0.0), stats

      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )
      return (learner, index + 1), {"loss": loss}

    (learner, _), metrics = local_steps.run(
      step, (client, jnp.int32(0)), data, context, training
    )
    asked = context.public.data(rows=download.next_rows)
    params, stats = training.alternating.current(learner, context.rates)
    logits = predictions.predict(model, params, stats, asked)
    weight = messages.client_weight(options.weighting, data)
    return api.ClientResult(learner, jax.nn.softmax(logits), weight, metrics)

  def average(server, aggregates):
    if options.average == "mean":
      return messages.mean_message(aggregates, server.targets)
    everyone = server_lib.all_collected(aggregates)
    sent = centers.senders(everyone)
    if options.average == "median":
      return soft_labels.normalised(ranks.median(everyone.parts, sent))
    found = ranks.trimmed_mean(everyone.parts, sent, options.trim)
    return soft_labels.normalised(found)

  def server_update(server, aggregates, context):
    new = public_lib.next_download(
      server, context.key, size, samples, average(server, aggregates)
    )
    return messages.if_heard(aggregates, new, server)

  def receive_weight(server, message, weight, context, cohort):
    del message
    return api.weighted_sum(server, (), weight, context, cohort)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=2 * training.steps * training.gradients_per_step,
    shares_model=False,
  ).replace(
    init_server=init_server,
    server_update=server_update,
    plausible=lambda message, samples: reports.are_probabilities(message),
  )
  if options.average == "mean":
    return method.replace(robust=centers.in_place_of_mean)
  return method.replace(
    receive=receive_weight, collect=lambda message, context: message
  )
