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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  centers,
  messages,
  predictions,
  requirements,
  trees,
)
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FeddfOptions:
  """Settings of FedDF.

  Attributes:
    distill_steps: distillation steps of the server per round, each on a batch
      of the clients' batch size; 0 is FedAvg.
    distill_learning_rate: step size of these steps.
    distill_optimizer: their optimizer, "sgd", "momentum", "adam" or "adamw"; it
      starts afresh each round.
    temperature: T, by which logits are divided.
    weighting: weights of the clients in the mean of the parameters: by
      "samples" or "uniform".
  """

  distill_steps: int = 100
  distill_learning_rate: float = api.traced(1e-3)
  distill_optimizer: str = "adam"
  temperature: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    server_lib.check_steps("feddf", self, "distill")
    checks.positive("feddf.temperature", self.temperature)
    checks.choice("feddf.weighting", self.weighting, api.WEIGHTINGS)


class FeddfServer(NamedTuple):
  """State of the server.

  Attributes:
    models: {cohort: GlobalModel}, one for each architecture.
  """

  models: dict[str, api.GlobalModel]


class Heard(NamedTuple):
  """What the server sums over the clients of a cohort.

  Attributes:
    difference: weight times the difference of the models.
    logits: logits on the public set, `[public, classes]`.
    count: number of clients, float32 `[]`.
  """

  difference: api.GlobalModel
  logits: jax.Array
  count: jax.Array


def follow(student: api.GlobalModel, stats: Any) -> Any:
  """Statistics of quantized forms, moved as distillation moved the others.

  The server has no levels, so it cannot run the quantized forms itself.

  Args:
    student: the model before distillation.
    stats: its statistics after it.

  Returns:
    What the server then holds; None if there are none.
  """
  if student.quantized_stats is None:
    return None
  held = student.quantized_stats
  # The statistics of each precision move alike.
  difference = jax.tree.map(
    lambda x, d: jnp.broadcast_to(d, x.shape),
    held.values,
    trees.difference(stats, student.stats),
  )
  moved = messages.keep_variances(difference, held.values)
  return held._replace(values=jax.tree.map(jnp.add, held.values, moved))


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
  requirements.check_public("feddf", federation, labelled=False)
  if len(models.clients) == 1:
    requirements.check_same_model("feddf", models)
  # FedAvg for each architecture separately.
  parts = {
    cohort: averaging.averaging_method(
      "feddf",
      api.Models(model, {cohort: model}),
      training,
      weighting=options.weighting,
    )
    for cohort, model in models.clients.items()
  }

  def init_server(key, inputs):
    return FeddfServer(
      {c: p.init_server(key, inputs) for c, p in parts.items()}
    )

  def init_client(key, inputs, server, client_id, spec, cohort):
    own = server.models[cohort]
    return parts[cohort].init_client(key, inputs, own, client_id, spec, cohort)

  def broadcast(server, context, cohort):
    return parts[cohort].broadcast(server.models[cohort], context, cohort)

  def client_update(download, client, data, context, cohort):
    return parts[cohort].client_update(download, client, data, context, cohort)

  def predict(server, message, context, cohort):
    # In full precision, with the statistics for it.
    own, moved = (
      m._replace(quantized_stats=None) for m in (server.models[cohort], message)
    )
    params, stats, _ = messages.add(own, moved)
    return predictions.predict(
      models.clients[cohort], params, stats, context.public.data()
    )

  def receive(server, message, weight, context, cohort):
    plain = api.weighted_sum(server, message, weight, context, cohort)
    logits = predict(server, message, context, cohort)
    counts = plain.weight > 0
    heard = Heard(
      plain.total,
      jnp.where(counts, logits, 0.0),
      counts.astype(plain.weight.dtype),
    )
    return plain._replace(total=heard)

  def robust(server, aggregates, center, context):
    said, sent = [], []
    for cohort, aggregate in aggregates.items():
      said.append(
        jax.lax.map(
          lambda message, c=cohort: predict(server, message, context, c),
          aggregate.collected.parts,
        )
      )
      sent.append(centers.senders(aggregate.collected))
    teacher = center(jnp.concatenate(said), jnp.concatenate(sent))
    # The ensemble is that of all cohorts, the models are each cohort's own.
    share = 1 / len(aggregates)

    def heard(aggregate, sent):
      difference = center(aggregate.collected.parts, sent)
      total = Heard(difference, share * teacher, jnp.float32(share))
      return api.Aggregate(total, jnp.float32(jnp.any(sent)))

    return {
      cohort: heard(aggregate, own)
      for (cohort, aggregate), own in zip(aggregates.items(), sent, strict=True)
    }

  def loss(logits, teacher):
    return training.divergence(teacher, logits, options.temperature)

  def server_update(server, aggregates, context):
    heard = [aggregate.total for aggregate in aggregates.values()]
    count = sum(h.count for h in heard)
    teacher = sum(h.logits for h in heard) / jnp.maximum(count, 1)
    data = context.public.data(labels=teacher)

    def update(cohort, aggregate):
      own = server.models[cohort]
      difference = aggregate._replace(total=aggregate.total.difference)
      mean = messages.mean_message({cohort: difference}, own)
      student = messages.add(own, mean)
      taught = public_lib.distill(
        models.clients[cohort],
        student,
        data,
        context.key,
        options,
        loss=loss,
        batch_size=training.batch_size,
      )
      taught = taught._replace(quantized_stats=follow(student, taught.stats))
      return messages.if_heard(aggregates, taught, own)

    return FeddfServer({c: update(c, a) for c, a in aggregates.items()})

  def variants(server, client, data, context, cohort):
    own = server.models[cohort]
    return parts[cohort].variants(own, client, data, context, cohort)

  def global_model(server, cohort):
    own = server.models[cohort]
    return own.params, own.stats, models.clients[cohort]

  def start(server, spec, cohort):
    own = averaging.copy_for(server.models[cohort], spec)
    return own, models.clients[cohort]

  first = next(iter(parts.values()))
  return first.replace(
    init_server=init_server,
    init_client=init_client,
    broadcast=broadcast,
    client_update=client_update,
    server_update=server_update,
    variants=variants,
    receive=receive,
    averages=False,
    robust=robust,
    global_model=global_model,
    start=start,
    server_moves=lambda server: {k: x.params for k, x in server.models.items()},
  )
