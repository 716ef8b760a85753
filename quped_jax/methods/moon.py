r"""MOON: clients contrast their features with those of two models.

The features z of a sample, which are the input of the last layer, are to be
more like the ones z_w that the received global model has for it than like the
ones z_v that the client's last local model v had:

.. math::
  \mathrm{CE} + \mu \, \frac1B \sum_b -\log
    \frac{\exp(\cos(z, z_w) / \tau)}
      {\exp(\cos(z, z_w) / \tau) + \exp(\cos(z, z_v) / \tau)}

Both models are constant and use their running batch-norm statistics. A client
that takes part for the first time has no v; with w in its place, the term is
mu log 2 and has no gradient.

Down: the global model. Up: the difference after the local steps. The server
takes the weighted mean. v stays with the client: it stores one model more.
Quantized clients minimise this at x and at Q(x), with levels of their own that
stay with them; w and v have full precision.

Left out: the projection head of two layers that the paper puts before the last
layer of its networks, and of those that it compares with, and a v for each of
several past rounds.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Li, He, Song, Model-Contrastive Federated Learning, 2021.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, divided
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass

# The squared length below which features have no direction.
_SMALLEST = 1e-16


@dataclasses.dataclass(frozen=True)
class MoonOptions:
  """Settings of MOON.

  Attributes:
    mu: weight of the contrastive term, at least 0; 0 is FedAvg.
    temperature: tau, by which similarities are divided.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  mu: float = api.traced(5.0)
  temperature: float = api.traced(0.5)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("moon.mu", self.mu)
    checks.positive("moon.temperature", self.temperature)
    checks.choice("moon.weighting", self.weighting, api.WEIGHTINGS)


class MoonClient(NamedTuple):
  """What stays with a client.

  Attributes:
    levels: the levels of its quantized model.
    last: v, a GlobalModel, in full precision.
    trained: bool `[]`, whether there is a v yet.
  """

  levels: averaging.Levels
  last: api.GlobalModel
  trained: Any


class Contrasted(NamedTuple):
  """The two models that a client's local steps know.

  Attributes:
    model: the global model.
    last: its last local model, or else the global one.
  """

  model: api.GlobalModel
  last: api.GlobalModel


def cosine(first: jax.Array, second: jax.Array) -> jax.Array:
  """Cosines `[batch]` of features `[batch, width]`; 0 if any are all zero."""

  def direction(features):
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    known = squares > _SMALLEST
    # Two branches, so that the gradient is zero, not NaN, at zero.
    return jnp.where(
      known, features * jax.lax.rsqrt(jnp.where(known, squares, 1.0)), 0.0
    )

  return jnp.sum(direction(first) * direction(second), axis=-1)


def contrast(
  features: jax.Array, like: jax.Array, unlike: jax.Array, temperature: float
) -> jax.Array:
  """The contrastive term.

  Args:
    features: z, `[batch, width]`.
    like: z_w, likewise.
    unlike: z_v, likewise.
    temperature: tau.
  """
  apart = cosine(features, unlike) - cosine(features, like)
  return jnp.mean(jax.nn.softplus(apart / temperature))


def make_moon(
  models: api.Models,
  training: Training,
  options: MoonOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes MOON.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the samples.

  Raises:
    ValueError: a cohort with another architecture, or a model without a last
      layer that classifies features.
  """
  model = models.shared
  divided.check_divided("moon", model, federation)
  body = divided.body(model)
  head: Any = model.head

  def local_loss(known, batch, context):
    del context
    like, unlike = (averaging.predict(body, x, batch) for x in known)

    def objective(params, stats):
      features, stats = training_pass(body, params, stats, batch)
      loss = training.loss(head(params, features), batch.labels)
      term = contrast(features, like, unlike, options.temperature)
      return loss + options.mu * term, stats

    return objective

  method = averaging.averaging_method(
    "moon",
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
  )

  def init_client(key, inputs, server, client_id, spec, cohort):
    levels = method.init_client(key, inputs, server, client_id, spec, cohort)
    last = server._replace(quantized_stats=None)
    return MoonClient(levels, last, jnp.bool_(False))

  def client_update(download, client, data, context, cohort):
    start = download._replace(quantized_stats=None)
    last = jax.tree.map(
      lambda v, w: jnp.where(client.trained, v, w), client.last, start
    )
    known = Contrasted(download, last)
    result = method.client_update(known, client, data, context, cohort)
    moved = result.message._replace(quantized_stats=None)
    new = result.client._replace(
      last=jax.tree.map(jnp.add, start, moved), trained=jnp.bool_(True)
    )
    return result._replace(client=new)

  return method.replace(init_client=init_client, client_update=client_update)
