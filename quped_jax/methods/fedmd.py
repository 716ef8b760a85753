"""FedMD: clients of any architecture fit the mean of their class scores.

Before its first round a client learns the labels of the public set (transfer
learning). In every round it fits its class scores (logits) on a random subset
of the public set to the clients' mean scores from the previous round (digest),
trains on its own data (revisit), and sends its scores on the next subset. The
paper minimises the absolute difference between scores and mean.

Down: the mean scores, with the indices of their public samples and of this
round's. Up: the scores on this round's samples. There is no global model.
Quantized clients do all this by alternating steps; their scores are those of
the weights in training.

The transfer learning costs time in a client's first round, also for the clients
that run at the same time; `gradients` does not count it.

Optimizer states: those of the client's own weights and levels stay with it, and
serve all its steps, on public samples and on its own.

References:
  Li, Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks, random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  centers,
  distill,
  messages,
  personal,
  requirements,
)
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization.alternating import Learner

# `(scores, mean scores) -> loss`, both `[batch, classes]`.
DIGEST_LOSSES: dict[str, public_lib.TargetLoss] = {
  "mae": lambda scores, mean: jnp.mean(jnp.abs(scores - mean)),
  "mse": lambda scores, mean: jnp.mean(jnp.square(scores - mean)),
  "kl": lambda scores, mean: distill.kl_divergence(mean, scores),
}


@dataclasses.dataclass(frozen=True)
class FedmdOptions(public_lib.ExchangeOptions):
  """Settings of FedMD, in addition to those of `ExchangeOptions`.

  Attributes:
    digest_loss: distance to the mean scores: "mae" or "mse" of the scores, or
      "kl" of their softmax.
    pretrain_steps: steps of a client on the public labels, before its first
      round.
  """

  method: ClassVar[str] = "fedmd"

  digest_loss: str = "mae"
  pretrain_steps: int = 50

  def __post_init__(self):
    super().__post_init__()
    checks.choice("fedmd.digest_loss", self.digest_loss, tuple(DIGEST_LOSSES))
    checks.at_least("fedmd.pretrain_steps", self.pretrain_steps, 0)


class FedmdClient(NamedTuple):
  """State of a client.

  Attributes:
    learner: its model.
    started: bool `[]`, whether it has learned the public labels.
  """

  learner: Learner
  started: jax.Array


def make_fedmd(
  models: api.Models,
  training: Training,
  options: FedmdOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedMD.

  Args:
    models: the networks of the cohorts, of any architectures.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set, and the number of classes.

  Raises:
    ValueError: labels are no classes; no public set, one without labels, or one
      smaller than `public_samples`.
  """
  requirements.check_classes(
    "fedmd", training, "clients exchange scores of classes"
  )
  size, samples = public_lib.sizes(options, federation, labelled=True)

  def init_server(key, inputs):
    del inputs
    nothing = jnp.zeros((samples or size, federation.num_classes))
    return public_lib.first_download(key, size, samples, nothing)

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    learner = public_lib.digest(
      training,
      model,
      client.learner,
      context.public.data(),
      context,
      jax.random.fold_in(context.key, random_keys.FEDMD_PRETRAINING),
      loss=training.loss,
      steps=options.pretrain_steps,
      counts=~client.started,
    )
    learner, scores, metrics = public_lib.client_round(
      training,
      model,
      learner,
      download,
      data,
      context,
      loss=DIGEST_LOSSES[options.digest_loss],
      digest_steps=options.digest_steps,
    )
    client = FedmdClient(learner, jnp.ones_like(client.started))
    weight = messages.client_weight(options.weighting, data)
    return api.ClientResult(client, scores, weight, metrics)

  def server_update(server, aggregates, context):
    scores = messages.mean_message(aggregates, server.targets)
    new = public_lib.next_download(server, context.key, size, samples, scores)
    return messages.if_heard(aggregates, new, server)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=(training.steps + options.digest_steps)
    * training.gradients_per_step,
    shares_model=False,
  )

  def init_client(key, inputs, server, client_id, spec, cohort):
    learner = method.init_client(key, inputs, server, client_id, spec, cohort)
    return FedmdClient(learner, jnp.bool_(False))

  return method.replace(
    init_server=init_server,
    init_client=init_client,
    server_update=server_update,
    robust=centers.in_place_of_mean,
  )
