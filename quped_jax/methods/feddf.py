r"""FedDF: FedAvg, then distillation of the ensemble at the server.

The server averages the clients' models as FedAvg does. On a public set without
labels it then distils the ensemble of the clients' models k into the mean w,

.. math::
  \min_w \; T^2 \, \mathrm{KL}\Big(
    \mathrm{softmax}\big(\tfrac1{TK} \sum_k g_k(u)\big) \,\Big\|\,
    \mathrm{softmax}(g_w(u) / T) \Big),

where g are logits and u public samples. Each architecture has a student of its
own, taught by the clients of all architectures. In the ensemble all clients
have equal weight; `weighting` is for the parameters only.

Down: w of the client's architecture. Up: the difference after the local steps;
the server computes the logits, in one pass over the public set per client.
Quantized clients train as in FedAvg: the teacher's logits are those of the
weights in training, which travel. The batch-norm statistics of their quantized
models move, in the distillation, as those of the model do.

Left out: early stopping of the distillation on validation data, its cosine
schedule, and dropping clients that are worse than chance.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; that of the distillation
starts afresh each round.

References:
  Lin, Kong, Stich, Jaggi, Ensemble Distillation for Robust Model Fusion in
  Federated Learning, 2020.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import centers, ensemble
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FeddfOptions(ensemble.EnsembleOptions):
  """Settings of FedDF, in addition to those of `EnsembleOptions`.

  Attributes:
    temperature: T, by which logits are divided.
  """

  method: ClassVar[str] = "feddf"

  temperature: float = api.traced(1.0)

  def __post_init__(self):
    super().__post_init__()
    checks.positive("feddf.temperature", self.temperature)


def make_feddf(
  models: api.Models,
  training: Training,
  options: FeddfOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedDF.

  Args:
    models: the networks; a single cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.

  Raises:
    ValueError: no public set; a single cohort with another architecture than
      the global one.
  """

  def teach(before, students, heard, context):
    del before, students, context
    count = sum(h.count for h in heard.values())
    return sum(h.said for h in heard.values()) / jnp.maximum(count, 1)

  def robust(server, aggregates, center, context):
    said, sent = [], []
    for cohort, aggregate in aggregates.items():
      said.append(
        jax.lax.map(
          lambda message, c=cohort: ensemble.logits_of(
            models.clients[c], server.models[c], message, context
          ),
          aggregate.collected.parts,
        )
      )
      sent.append(centers.senders(aggregate.collected))
    teacher = center(jnp.concatenate(said), jnp.concatenate(sent))
    # The ensemble is that of all cohorts, the models are each cohort's own.
    share = 1 / len(aggregates)

    def heard(aggregate, sent):
      difference = center(aggregate.collected.parts, sent)
      total = ensemble.Heard(difference, share * teacher, jnp.float32(share))
      return api.Aggregate(total, jnp.float32(jnp.any(sent)))

    return {
      cohort: heard(aggregate, own)
      for (cohort, aggregate), own in zip(aggregates.items(), sent, strict=True)
    }

  method = ensemble.ensemble_method(
    models,
    training,
    options,
    federation,
    say=lambda message, logits: logits,
    teach=teach,
    loss=lambda logits, teacher: training.divergence(
      teacher, logits, options.temperature
    ),
  )
  return method.replace(robust=robust)
