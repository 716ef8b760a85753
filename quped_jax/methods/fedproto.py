r"""FedProto: clients of any architecture share the mean features of classes.

No model travels, but prototypes: the mean over clients of their mean features z
of a class, which a client's own features are drawn to,

.. math::
  \mathrm{CE} + \lambda \operatorname{mean}_{b,j} (z_{bj} - P_{y_b j})^2, \qquad
  P_c = \sum_k n_k(c) \, \bar z_k(c) \Big/ \sum_k n_k(c),

where n_k(c) is the number of samples of class c that client k has, or 1 for
each client that has any ("uniform", as in the released code). The client
computes its mean features after its local steps. Only the width of the features
must be the same for all.

Down: the prototypes, and which are known. Up: the client's mean features by
class, and its numbers of samples. A class that nobody sends in a round keeps
its prototype. "personalized" is a client's own model, "prototypes" its features
with the nearest prototype. Quantized clients minimise this at x and at Q(x);
they send the features of the weights in training, of which "prototypes" is made
too.

The paper's Equation 6 also divides by the number of clients that have a class,
which would shrink prototypes. The released code forgets classes that nobody
sends, and takes the features in passing, in the last epoch; its test allows
only the client's own classes.

Optimizer states: those of the client's own weights and levels stay with it.

References:
  Tan, Long, Liu, Zhou, Lu, Jiang, Zhang, FedProto: Federated Prototype Learning
  across Heterogeneous Clients, 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import messages
from quped_jax.methods.blocks import prototypes as prototypes_lib
from quped_jax.methods.blocks.prototypes import ClassMeans, Prototypes
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedprotoOptions:
  """Settings of FedProto.

  Attributes:
    weight: lambda, weight of the distance to the prototypes; 0 is local
      training.
    weighting: weights of the clients in a class's mean: by "samples" of that
      class, or "uniform" over those that have any.
  """

  weight: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedproto.weight", self.weight)
    checks.choice("fedproto.weighting", self.weighting, api.WEIGHTINGS)


def make_fedproto(
  models: api.Models,
  training: Training,
  options: FedprotoOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedProto.

  Args:
    models: the networks of the cohorts, all with the same number of features.
    training: how clients train.
    options: the method's own settings.
    federation: has the samples.

  Raises:
    ValueError: labels that are no classes, a model whose head is no dense layer
      with a bias, or another number of features than the others have.
  """
  method, width, classes = prototypes_lib.prototype_method(
    "fedproto", models, training, federation, weight=options.weight
  )
  uniform = options.weighting == "uniform"

  def init_server(key, inputs):
    del key, inputs
    return prototypes_lib.nothing_known(classes, width)

  def receive(server, message, weight, context, cohort):
    counts = message.counts
    shares = (counts > 0).astype(counts.dtype) if uniform else counts
    summand = ClassMeans(shares[:, None] * message.means, shares)
    return api.weighted_sum(server, summand, weight, context, cohort)

  def server_update(server, aggregates, context):
    del context
    totals = [a.total for a in aggregates.values()]
    sums, shares = jax.tree.map(lambda *x: sum(x), *totals)
    heard = shares > 0
    means = jnp.where(
      heard[:, None], prototypes_lib.mean_of(sums, shares), server.means
    )
    new = Prototypes(means, server.known | heard)
    return messages.if_heard(aggregates, new, server)

  return method.replace(
    init_server=init_server, receive=receive, server_update=server_update
  )
