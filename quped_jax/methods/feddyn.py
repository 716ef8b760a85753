r"""FedDyn: FedAvg with dynamic regularization that aligns the clients' optima.

A client's optimum is not that of all clients together, where its own gradient
is not zero. So every client k keeps the sum h_k of its moves in all rounds so
far, by which its objective is tilted, and the server keeps their mean H over
all N clients, those that are absent too:

.. math::
  \theta_k &\approx \arg\min_\theta \; f_k(\theta)
    + \alpha \langle h_k, \theta \rangle
    + \tfrac{\alpha}{2} \|\theta - w\|^2 \\
  h_k &\leftarrow h_k + \theta_k - w, \quad
  H \leftarrow H + \tfrac1N \sum_{k \in S} (\theta_k - w) \\
  w &\leftarrow \mathrm{mean}_{k \in S} \, \theta_k + H

with S the clients that took part. At an exact minimum h_k is minus the gradient
of f_k at theta_k, divided by alpha. Where the rounds come to rest, all theta_k
are w, so H is zero and the gradients at w add up to zero: w is an optimum of
the mean of the clients' losses, in which all clients weigh the same. FedDyn
with a small alpha is not FedAvg: its first round goes twice as far.

Down: w. Up: the difference of theta_k, of which the server and the client both
know what it adds to their sums. Local steps are those of any optimizer; the
gradient of the regularizer, alpha (theta - w + h_k), is added to theirs.
Quantized clients add it to the gradient of their weights x; their levels follow
the loss and stay with them. Batch-norm statistics are averaged as in FedAvg.
Where messages are compressed, clients add what they meant to send, so that H is
their mean but for what was lost.

Left out: alpha divided by a client's share of the samples, by which the
authors' code weighs clients by samples. Some implementations penalise the
distance to w in place of its square, and so have another gradient.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, Federated Learning Based on
  Dynamic Regularization, 2021.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, centers, messages
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FeddynOptions:
  """Settings of FedDyn.

  Attributes:
    alpha: strength of the regularizer, positive. If it is small, the sums of
      moves are long and rounds may be unstable.
  """

  alpha: float = api.traced(0.01)

  def __post_init__(self):
    checks.positive("feddyn.alpha", self.alpha)


class Moved(NamedTuple):
  """The server's state, and what a client's local steps know.

  Attributes:
    model: w, the GlobalModel.
    moves: a tree over the parameters: H, or h_k.
  """

  model: api.GlobalModel
  moves: Any


class FeddynClient(NamedTuple):
  """What stays with a client.

  Attributes:
    levels: the levels of its quantized model.
    moves: h_k, a tree over the parameters.
  """

  levels: averaging.Levels
  moves: Any


def make_feddyn(
  models: api.Models,
  training: Training,
  options: FeddynOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedDyn.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has `num_clients`, N.

  Raises:
    ValueError: a cohort with another architecture.
  """

  def pull(known, params):
    return jax.tree.map(
      lambda x, w, h: options.alpha * (x - w + h),
      params,
      known.model.params,
      known.moves,
    )

  method = averaging.averaging_method(
    "feddyn", models, training, weighting="uniform", correction=pull
  )

  def init_server(key, inputs):
    model = method.init_server(key, inputs)
    return Moved(model, jax.tree.map(jnp.zeros_like, model.params))

  def init_client(key, inputs, server, client_id, spec, cohort):
    levels = method.init_client(key, inputs, server, client_id, spec, cohort)
    return FeddynClient(levels, jax.tree.map(jnp.zeros_like, server.moves))

  def client_update(download, client, data, context, cohort):
    known = Moved(download, client.moves)
    result = method.client_update(known, client, data, context, cohort)
    moves = jax.tree.map(jnp.add, client.moves, result.message.params)
    return result._replace(client=result.client._replace(moves=moves))

  def receive(server, message, weight, context, cohort):
    # Everyone counts once, whatever weight it claims.
    return api.weighted_sum(server, message, weight > 0, context, cohort)

  def server_update(server, aggregates, context):
    del context
    mean = messages.mean_message(aggregates, server.model)
    count = sum(aggregate.weight for aggregate in aggregates.values())
    share = count / federation.num_clients
    moves = jax.tree.map(lambda h, d: h + share * d, server.moves, mean.params)
    step = jax.tree.map(jnp.add, mean.params, moves)
    model = messages.add(server.model, mean._replace(params=step))
    # If nobody sent anything, the model would still move by H.
    return messages.if_heard(aggregates, Moved(model, moves), server)

  return method.replace(
    init_server=init_server,
    init_client=init_client,
    client_update=client_update,
    receive=receive,
    averages=False,
    differences=lambda download: download,
    robust=centers.in_place_of_sum,
    server_update=server_update,
    server_moves=lambda server: server.model.params,
  )
