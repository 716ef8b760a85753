r"""FedGKD-VOTE: clients learn from each of the last global models.

.. math::
  \mathrm{CE} + \tfrac{\gamma}{2} \sum_m a_m \mathrm{KL}(w_m \,\|\, w), \quad
  a = \mathrm{softmax}(-L / T)

with L_m the loss of the m-th of the last M global models (of all so far in the
first rounds) at the client: its mean over the client's validation samples. A
client without validation samples uses training samples: at most as many as the
largest validation set has, or all if no client has one. This takes one more
forward pass of each model over these samples per round. Teachers predict with
their running batch-norm statistics.

Down: the M models, the newest of which is the global one, and their number.
Up: the difference after the local steps. The server takes the weighted mean.
Quantized clients minimise this at x and at Q(x), with levels of their own that
stay with them; the teachers have full precision.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Yao, Pan, Dai, Wan, Ding, Yu, Jin, Xu, Sun, FedGKD: Toward Heterogeneous
  Federated Learning via Global Knowledge Distillation, 2023.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Batch, ClientData
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, history
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model

_MOST_MODELS = 100


@dataclasses.dataclass(frozen=True)
class FedgkdVoteOptions:
  """Settings of FedGKD-VOTE.

  Attributes:
    gamma: weight of distillation (halved in the loss), at least 0.
    models: M, the number of global models that teach, from 1 to 100.
    temperature: T, of the softmax that gives the teachers' weights; if it is
      small, only the best teacher counts.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  gamma: float = api.traced(0.2)
  models: int = 5
  temperature: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedgkd_vote.gamma", self.gamma)
    checks.at_least("fedgkd_vote.models", self.models, 1)
    if self.models > _MOST_MODELS:
      raise ValueError(
        f"fedgkd_vote.models={self.models}: must be at most {_MOST_MODELS}, "
        "since a client runs each of them in every step"
      )
    checks.positive("fedgkd_vote.temperature", self.temperature)
    checks.choice("fedgkd_vote.weighting", self.weighting, api.WEIGHTINGS)


class FedgkdVoteDownload(NamedTuple):
  """What a client receives.

  Attributes:
    history: the last M global models, which teach in full precision.
    quantized_stats: of the newest one's quantized form, see GlobalModel.
  """

  history: history.History
  quantized_stats: Any

  @property
  def model(self) -> api.GlobalModel:
    """The newest model."""
    newest = self.history.model
    return newest._replace(quantized_stats=self.quantized_stats)


class Voted(NamedTuple):
  """The client's download, with its weights of the teachers.

  Attributes:
    model: the global model.
    teachers: the last M global models.
    shares: a, float32 `[M]`.
  """

  model: api.GlobalModel
  teachers: list[api.GlobalModel]
  shares: jax.Array


def held_out_losses(
  training: Training,
  model: Model,
  teachers: list[api.GlobalModel],
  data: ClientData,
) -> jax.Array:
  """Each model's mean loss `[models]` on a client's samples, see above."""
  train, validation = data.train, data.validation
  length = validation.max_count or train.max_count
  own = validation.count > 0
  count = jnp.where(own, validation.count, jnp.minimum(train.count, length))

  def draw(positions) -> Batch:
    batch = data.batch(jnp.minimum(positions, train.count - 1))
    if not validation.max_count:
      return batch
    last = jnp.maximum(validation.count - 1, 0)
    other = data.batch(jnp.minimum(positions, last), "validation")
    return jax.tree.map(lambda a, b: jnp.where(own, a, b), other, batch)

  def of_sample(logits, label):
    return training.loss(logits[None], label[None])

  def sums(start):
    positions = start + jnp.arange(training.batch_size, dtype=jnp.int32)
    batch, counts = draw(positions), positions < count

    def total(teacher):
      logits = averaging.predict(model, teacher, batch)
      losses = jax.vmap(of_sample)(logits, batch.labels)
      return jnp.sum(jnp.where(counts, losses, 0.0))

    return jnp.stack([total(teacher) for teacher in teachers])

  starts = jnp.arange(0, length, training.batch_size, dtype=jnp.int32)
  return jnp.sum(jax.lax.map(sums, starts), axis=0) / count


def make_fedgkd_vote(
  models: api.Models,
  training: Training,
  options: FedgkdVoteOptions,
) -> api.FederatedMethod:
  """Makes FedGKD-VOTE.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  model = models.shared

  def local_loss(download, batch, context):
    del context
    taught = [
      averaging.predict(model, teacher, batch) for teacher in download.teachers
    ]

    def term(logits):
      divergences = [training.divergence(t, logits) for t in taught]
      return (
        options.gamma / 2 * jnp.dot(download.shares, jnp.stack(divergences))
      )

    return averaging.with_term(training, model, batch, term)

  method = averaging.averaging_method(
    "fedgkd_vote",
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
  )

  def init_server(key, inputs):
    return history.begin(method.init_server(key, inputs), options.models)

  def broadcast(server, context, cohort):
    newest = method.broadcast(server, context, cohort)
    teachers = server.models._replace(quantized_stats=None)
    return FedgkdVoteDownload(
      server._replace(models=teachers), newest.quantized_stats
    )

  def client_update(download, client, data, context, cohort):
    known = download.history
    teachers = [history.nth(known.models, m) for m in range(options.models)]
    losses = held_out_losses(training, model, teachers, data)
    shares = jax.nn.softmax(
      -losses / options.temperature, where=history.remembered(known)
    )
    voted = Voted(download.model, teachers, shares)
    return method.client_update(voted, client, data, context, cohort)

  return method.replace(
    init_server=init_server,
    broadcast=broadcast,
    client_update=client_update,
    server_update=history.add_mean,
  )
