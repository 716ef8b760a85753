r"""FedDBE: domain bias of the features is separated, and eliminated.

The mean of a client's features z (the input of the last layer h) tells its
domain. Each client stores it in a vector v of its own, zero at first, that is
added to the features, while the features' mean m is held at that of all
clients, m_g. A client minimises

.. math::
  \mathrm{CE}(h(z + v), y) + \tfrac{\kappa}{2} \,
    \operatorname{mean}_j (m_j - m_{g,j})^2, \qquad
  m \leftarrow (1 - \mu) \, \mathrm{sg}(m) + \mu \operatorname{mean}_b z

over the model and v, where j are features, b the samples of a batch, sg is what
counts as constant, and m is zero at the start of a round. m_g is taken once: it
is the mean over clients of the m after a first round of plain FedAvg, without v
and penalty. With mu < 1, m is too small by the factor 1 - (1 - mu)^k after k
steps, in m_g as in the penalty.

Down: the model and m_g. Up: the differences after the local steps; that of m_g
is zero after the first round. "global" is the shared model, "personalized" the
one with v: since h is linear, v becomes a part of its bias. Quantized clients
minimise this at x and at Q(x), where each has an m of its own, and m_g is that
of x; their levels stay with them. Of the two sets of statistics that they send
and receive, the second has a vector in the place of m_g that nobody uses.

The released code has all clients take the first round, whose models it
discards; here those that take part in the first round that anyone is heard in
do, and their models are averaged.

Optimizer states: that of the weights starts afresh each round, with the
download, for v too; that of the levels stays with the client.

References:
  Zhang, Hua, Cao, Wang, Song, Xue, Ma, Guan, Eliminating Domain Bias for
  Federated Learning in Representation Space, 2023.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  divided,
  extended,
  local_steps,
  requirements,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass

# The name of m, or of m_g, among the statistics.
MEAN = "feature_mean"


@dataclasses.dataclass(frozen=True)
class FeddbeOptions:
  """Settings of FedDBE.

  Attributes:
    kappa: weight of the penalty on the features' mean, at least 0.
    momentum: mu, the weight of a batch in the features' mean, in (0, 1].
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  kappa: float = api.traced(50.0)
  momentum: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("feddbe.kappa", self.kappa)
    checks.positive("feddbe.momentum", self.momentum)
    checks.unit_interval("feddbe.momentum", self.momentum)
    checks.choice("feddbe.weighting", self.weighting, api.WEIGHTINGS)


def _shifted(last: Any, shift: jax.Array) -> dict[str, jax.Array]:
  """The last layer h' with h'(z) = h(z + v)."""
  moved = jnp.matmul(shift, last["kernel"], precision="highest")
  return {**last, "bias": last["bias"] + moved}


def make_feddbe(
  models: api.Models,
  training: Training,
  options: FeddbeOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedDBE.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the samples.

  Raises:
    ValueError: a cohort with another architecture, or a model whose head is not
      a dense layer with a bias of full precision.
  """
  requirements.check_same_model("feddbe", models)
  width, _ = divided.check_linear(
    "feddbe", models.clients, federation, training, ("bias",)
  )
  body = divided.body(models.shared)
  head: Any = models.shared.head

  def with_mean(stats, mean):
    return None if stats is None else {**stats, MEAN: mean}

  def train(learner, data, context):
    nothing, target = jnp.zeros(width), learner.stats[MEAN]
    known = jnp.any(target != 0)

    def objective(batch):
      def loss(params, stats):
        shared = extended.without(params)
        features, new = training_pass(
          body, shared, extended.without(stats, (MEAN,)), batch
        )
        mean = (1 - options.momentum) * stats[MEAN]
        mean += options.momentum * jnp.mean(features, axis=0)
        apart = jnp.mean(jnp.square(mean - target)) / 2
        penalty = jnp.where(known, options.kappa * apart, 0.0)
        shift = jnp.where(known, params[extended.OWN], 0.0)
        logits = head(shared, features + shift[None])
        total = training.loss(logits, batch.labels) + penalty
        return total, with_mean(new, mean)

      return loss

    learner = learner._replace(
      stats=with_mean(learner.stats, nothing),
      quantized_stats=with_mean(learner.quantized_stats, nothing),
    )
    learner, metrics = local_steps.train(
      training, learner, objective, data, context
    )
    # Once known, it stays as it is, so that its difference is zero.
    mean = jnp.where(known, target, learner.stats[MEAN])
    learner = learner._replace(
      stats=with_mean(learner.stats, mean),
      quantized_stats=with_mean(learner.quantized_stats, nothing),
    )
    return learner, metrics

  method = extended.extended_method(
    "feddbe",
    models,
    training,
    jnp.zeros(width),
    _shifted,
    weighting=options.weighting,
    train=train,
    statistics={MEAN: jnp.zeros(width)},
  )

  def server_update(server, aggregates, context):
    new = method.server_update(server, aggregates, context)
    # Later differences are none but noise, or false.
    old = server.stats[MEAN]
    mean = jnp.where(jnp.any(old != 0), old, new.stats[MEAN])
    return new._replace(stats=with_mean(new.stats, mean))

  return method.replace(server_update=server_update)
