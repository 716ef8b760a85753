"""Building block of methods that exchange soft labels of public samples.

No model travels. In every round a client distils the server's soft labels of
the previous round, trains on its own data, and sends its softmax outputs on
this round's public samples; the server takes their mean p, perhaps sharpens it
to softmax(p / T), and distils it into a model of its own. It then sends that
mean down or, with dual distillation, the outputs of its distilled model.

Soft labels that are all zero mean that there are none: in the first round
nothing is distilled.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  centers,
  messages,
  personal,
  predictions,
  quantized_labels,
  reports,
  requirements,
)
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class SoftLabelOptions(public_lib.ExchangeOptions):
  """Settings of all methods that exchange soft labels.

  Attributes:
    distill_steps: distillation steps of the server per round, each on a batch
      of the clients' batch size.
    distill_learning_rate: step size of these steps.
    distill_optimizer: their optimizer, "sgd", "momentum", "adam" or "adamw"; it
      starts afresh each round.
  """

  distill_steps: int = 50
  distill_learning_rate: float = api.traced(1e-3)
  distill_optimizer: str = "adam"

  def __post_init__(self):
    super().__post_init__()
    server_lib.check_steps(self.method, self, "distill")


class SoftLabelServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the server's GlobalModel, which does not travel.
    download: what clients receive, with encoded targets.
  """

  model: api.GlobalModel
  download: public_lib.Download


def sharpen(probabilities: jax.Array, temperature: float) -> jax.Array:
  """softmax(p / T): less entropy for smaller T, one-hot as T goes to 0."""
  return jax.nn.softmax(probabilities / temperature)


def normalised(found: jax.Array) -> jax.Array:
  """Soft labels from an average by coordinate, `[..., classes]`.

  Coordinates of a median need not add up to 1, nor be above 0.
  """
  total = jnp.sum(found, axis=-1, keepdims=True)
  uniform = 1 / found.shape[-1]
  return jnp.where(total > 0, found / jnp.where(total > 0, total, 1), uniform)


def soft_label_method(
  models: api.Models,
  training: Training,
  options: SoftLabelOptions,
  federation: Federation,
  *,
  dual: bool,
  temperature: float | None = None,
  bits_up: int = quantized_labels.FULL,
  bits_down: int = quantized_labels.FULL,
) -> api.FederatedMethod:
  """Makes a method that exchanges soft labels.

  Args:
    models: the networks of the cohorts and of the server, of any
      architectures.
    training: how clients train.
    options: the method's settings.
    federation: has the public set, and the number of classes.
    dual: whether clients receive the soft labels of the server's model instead
      of the clients' mean.
    temperature: T, which sharpens the mean; None does not.
    bits_up: bits per entry of the soft labels that clients send.
    bits_down: bits per entry of the soft labels that they receive.

  Raises:
    ValueError: labels are no classes; no public set, or one smaller than
      `public_samples`.
  """
  requirements.check_classes(
    options.method, training, "clients exchange probabilities of classes"
  )
  size, samples = public_lib.sizes(options, federation, labelled=False)
  shape = (samples or size, federation.num_classes)

  def init_server(key, inputs):
    model = api.GlobalModel(*models.shared.init(key, inputs))
    nothing = quantized_labels.nothing(bits_down, shape)
    return SoftLabelServer(
      model, public_lib.first_download(key, size, samples, nothing)
    )

  def broadcast(server, context, cohort):
    del context, cohort
    return server.download

  def client_update(download, client, data, context, cohort):
    labels = quantized_labels.decode(download.targets, bits_down, shape)
    learner, logits, metrics = public_lib.client_round(
      training,
      models.clients[cohort],
      client,
      download._replace(targets=labels),
      data,
      context,
      loss=public_lib.soft_cross_entropy,
      digest_steps=options.digest_steps,
    )
    message = quantized_labels.encode(jax.nn.softmax(logits), bits_up)
    weight = messages.client_weight(options.weighting, data)
    return api.ClientResult(learner, message, weight, metrics)

  def receive(server, message, weight, context, cohort):
    labels = quantized_labels.decode(message, bits_up, shape)
    return api.weighted_sum(server, labels, weight, context, cohort)

  def plausible(message, samples):
    del samples
    labels = quantized_labels.decode(message, bits_up, shape)
    return reports.are_probabilities(labels)

  def robust(server, aggregates, center, context):
    def labels(messages, sent):
      decoded = jax.vmap(
        lambda message: quantized_labels.decode(message, bits_up, shape)
      )(messages)
      return normalised(center(decoded, sent))

    return centers.in_place_of_mean(server, aggregates, labels, context)

  def server_update(server, aggregates, context):
    like = quantized_labels.decode(server.download.targets, bits_down, shape)
    labels = messages.mean_message(aggregates, like)
    if temperature is not None:
      labels = sharpen(labels, temperature)
    public, rows = context.public, server.download.next_rows
    model = public_lib.distill(
      models.shared,
      server.model,
      public_lib.with_targets(public, labels, rows),
      context.key,
      options,
      loss=public_lib.soft_cross_entropy,
      batch_size=training.batch_size,
    )
    if dual:
      logits = predictions.predict(
        models.shared, model.params, model.stats, public.data(rows=rows)
      )
      labels = jax.nn.softmax(logits)
    labels = quantized_labels.encode(labels, bits_down)
    download = public_lib.next_download(
      server.download, context.key, size, samples, labels
    )
    new = SoftLabelServer(model, download)
    return messages.if_heard(aggregates, new, server)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=(training.steps + options.digest_steps)
    * training.gradients_per_step,
  )
  return method.replace(
    init_server=init_server,
    broadcast=broadcast,
    receive=receive,
    plausible=plausible,
    averages=False,
    robust=robust,
    server_update=server_update,
  )
