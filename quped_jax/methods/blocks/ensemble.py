"""Building block of methods whose server distils an ensemble on a public set.

FedAvg for each architecture. The server, which sees the models that the clients
send, then distils what they say together about public samples into the mean of
each architecture, its student.

Down: w of the client's architecture. Up: the difference after the local steps;
the server computes the logits, in one pass over the public samples per client.
Quantized clients train as in FedAvg; in the ensemble are their weights in
training, which travel.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  messages,
  predictions,
  requirements,
)
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.personal import model_of
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class EnsembleOptions:
  """Settings of all methods that distil an ensemble.

  Attributes:
    method: the method's name, for errors.
    distill_steps: distillation steps of the server per round, each on a batch
      of the clients' batch size; 0 is FedAvg.
    distill_learning_rate: step size of these steps.
    distill_optimizer: their optimizer, "sgd", "momentum", "adam" or "adamw"; it
      starts afresh each round.
    weighting: weights of the clients in the mean of the parameters: by
      "samples" or "uniform".
  """

  method: ClassVar[str]

  distill_steps: int = 100
  distill_learning_rate: float = api.traced(1e-3)
  distill_optimizer: str = "adam"
  weighting: str = "samples"

  def __post_init__(self):
    server_lib.check_steps(self.method, self, "distill")
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


class Ensemble(NamedTuple):
  """State of the server.

  Attributes:
    models: {cohort: GlobalModel}, one for each architecture.
  """

  models: dict[str, api.GlobalModel]


class Heard(NamedTuple):
  """What the server sums over the clients of a cohort.

  Attributes:
    difference: weight times the difference of the models.
    said: what the clients say, see `ensemble_method`.
    count: number of clients, float32 `[]`.
  """

  difference: api.GlobalModel
  said: Any
  count: jax.Array


# `(before, students, {cohort: Heard}, context) -> targets [rows, classes]`,
# with the models of all cohorts before the round and after the mean.
Teach = Callable[
  [
    Mapping[str, api.GlobalModel],
    Mapping[str, api.GlobalModel],
    Mapping[str, Heard],
    api.Context,
  ],
  jax.Array,
]


def logits_of(
  model: Any,
  own: api.GlobalModel,
  message: Any,
  context: api.Context,
  rows: Any = None,
) -> jax.Array:
  """What a client's model says about public samples, `[rows, classes]`.

  Args:
    model: its network.
    own: the server's model of that network.
    message: the client's difference from it, or a NamedTuple with a field
      `model`.
    context: has the public set.
    rows: int32 `[rows]`, the public samples; None for all.
  """
  # In full precision, with the statistics for it.
  own, moved = (
    m._replace(quantized_stats=None) for m in (own, model_of(message))
  )
  params, stats, _ = messages.add(own, moved)
  data = context.public.data(rows=rows)
  return predictions.predict(model, params, stats, data)


def ensemble_method(
  models: api.Models,
  training: Training,
  options: EnsembleOptions,
  federation: Federation,
  *,
  say: Callable[[Any, jax.Array], Any],
  teach: Teach,
  loss: public_lib.TargetLoss,
  rows: Any = None,
  last: int = 1,
) -> api.FederatedMethod:
  """Makes a method that distils an ensemble.

  Args:
    models: the networks; a single cohort must use the global architecture.
    training: how clients train.
    options: the method's settings.
    federation: has the public set.
    say: `(message, logits [rows, classes]) -> tree`, of one client; the server
      sums it over the clients of a cohort, all with the same weight. A message
      is a GlobalModel, or a NamedTuple with a field `model`.
    teach: the targets, from these sums.
    loss: what the distillation minimises, of logits and targets.
    rows: int32 `[rows]`, the public samples to distil; None for all.
    last: the distillation returns the mean of its last so many models.

  Raises:
    ValueError: no public set; a single cohort with another architecture than
      the global one.
  """
  name = options.method
  requirements.check_public(name, federation, labelled=False)
  if len(models.clients) == 1:
    requirements.check_same_model(name, models)
  # FedAvg for each architecture separately.
  parts = {
    cohort: averaging.averaging_method(
      name,
      api.Models(model, {cohort: model}),
      training,
      weighting=options.weighting,
    )
    for cohort, model in models.clients.items()
  }

  def init_server(key, inputs):
    return Ensemble({c: p.init_server(key, inputs) for c, p in parts.items()})

  def init_client(key, inputs, server, client_id, spec, cohort):
    own = server.models[cohort]
    return parts[cohort].init_client(key, inputs, own, client_id, spec, cohort)

  def broadcast(server, context, cohort):
    return parts[cohort].broadcast(server.models[cohort], context, cohort)

  def client_update(download, client, data, context, cohort):
    return parts[cohort].client_update(download, client, data, context, cohort)

  def receive(server, message, weight, context, cohort):
    plain = api.weighted_sum(server, model_of(message), weight, context, cohort)
    logits = logits_of(
      models.clients[cohort], server.models[cohort], message, context, rows
    )
    counts = plain.weight > 0
    said = jax.tree.map(
      lambda x: jnp.where(counts, x, jnp.zeros_like(x)), say(message, logits)
    )
    count = counts.astype(plain.weight.dtype)
    return plain._replace(total=Heard(plain.total, said, count))

  def server_update(server, aggregates, context):
    heard = {c: aggregate.total for c, aggregate in aggregates.items()}

    def mean(cohort, aggregate):
      own = server.models[cohort]
      difference = aggregate._replace(total=aggregate.total.difference)
      moved = messages.mean_message({cohort: difference}, own)
      return messages.add(own, moved)

    students = {c: mean(c, a) for c, a in aggregates.items()}
    targets = teach(server.models, students, heard, context)
    data = public_lib.with_targets(context.public, targets, rows)

    def update(cohort, student):
      taught = public_lib.distill(
        models.clients[cohort],
        student,
        data,
        context.key,
        options,
        loss=loss,
        batch_size=training.batch_size,
        last=last,
      )
      followed = messages.follow(student, taught.stats)
      return messages.if_heard(
        aggregates,
        taught._replace(quantized_stats=followed),
        server.models[cohort],
      )

    return Ensemble({c: update(c, student) for c, student in students.items()})

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
    differences=lambda download: download,
    global_model=global_model,
    start=start,
    server_moves=lambda server: {k: x.params for k, x in server.models.items()},
  )
