"""Building block of methods that exchange soft labels of public samples.

No model travels. In every round a client distils the server's soft labels of
the round before, trains on its own data, and sends its softmax outputs on this
round's public samples; the server takes their mean p, perhaps sharpens it to
softmax(p / T), and distils it into a model of its own. What goes down is that
mean or, with dual distillation, what the server's model says after it.

Soft labels that are all zero are none: nothing is distilled in a first round.
"""

from typing import Any, NamedTuple

import jax

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  messages,
  personal,
  predictions,
  quantized_labels,
  requirements,
)
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training


class SoftLabelServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the server's GlobalModel, which stays there.
    download: what goes down, its targets encoded.
  """

  model: api.GlobalModel
  download: public_lib.Download


def sharpen(probabilities: jax.Array, temperature: float) -> jax.Array:
  """softmax(p / T): of less entropy the smaller T, one-hot as T goes to 0."""
  return jax.nn.softmax(probabilities / temperature)


def check_options(method: str, options: Any) -> None:
  """Raises a ValueError for wrong options that all such methods have."""
  checks.at_least(f"{method}.public_samples", options.public_samples, 0)
  checks.at_least(f"{method}.digest_steps", options.digest_steps, 0)
  server_lib.check_steps(method, options, "distill")
  checks.choice(f"{method}.weighting", options.weighting, api.WEIGHTINGS)


def soft_label_method(
  name: str,
  models: api.Models,
  federation: Any,
  training: Training,
  options: Any,
  *,
  dual: bool,
  temperature: float | None = None,
  bits_up: int = quantized_labels.FULL,
  bits_down: int = quantized_labels.FULL,
) -> api.FederatedMethod:
  """Makes a method that exchanges soft labels.

  Args:
    name: of the method, for errors.
    models: of each cohort and of the server, of any architectures.
    federation: has the public set, and the number of classes.
    training: how clients train.
    options: with the fields public_samples, digest_steps, distill_steps,
      distill_learning_rate, distill_optimizer and weighting.
    dual: whether the server's model's own soft labels go down.
    temperature: T, by which the mean is sharpened; None leaves it as it is.
    bits_up: of each entry of the soft labels that clients send.
    bits_down: of those that they receive.

  Raises:
    ValueError: no public set, or one smaller than the samples of a round.
  """
  requirements.check_public(name, federation, labelled=False)
  size, samples = federation.public.size, options.public_samples
  public_lib.check_samples(f"{name}.public_samples", samples, federation.public)
  shape = (samples or size, federation.num_classes)

  def init_server(key, inputs):
    model = api.GlobalModel(*models.shared.init(key, inputs))
    rows = public_lib.draw_rows(key, size, samples)
    nothing = quantized_labels.nothing(bits_down, shape)
    return SoftLabelServer(model, public_lib.Download(nothing, rows, rows))

  def broadcast(server, client_id, cohort):
    del client_id, cohort
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
        models.shared, *model, public.data(rows=rows)
      )
      labels = jax.nn.softmax(logits)
    labels = quantized_labels.encode(labels, bits_down)
    next_rows = public_lib.draw_rows(context.key, size, samples)
    download = public_lib.Download(labels, rows, next_rows)
    new = SoftLabelServer(model, download)
    return messages.if_heard(aggregates, new, server)

  method = personal.personal_method(
    models,
    training,
    client_update,
    gradients=(training.steps + options.digest_steps)
    * training.gradients_per_step,
  )
  return method._replace(
    init_server=init_server,
    broadcast=broadcast,
    receive=receive,
    averages=False,
    server_update=server_update,
  )
