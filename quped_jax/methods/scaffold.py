r"""SCAFFOLD: control variates against client drift.

Every client keeps an estimate c_i of its own gradient, the server an estimate c
of the mean gradient of all clients; local steps are corrected by their
difference:

.. math::
  y_i &\leftarrow y_i - \eta (\nabla f_i(y_i) - c_i + c)
    \quad \text{from } y_i = w, \; K \text{ times} \\
  c_i^+ &= c_i - c + (w - y_i) / (K \eta) \quad \text{(option II)} \\
  w &\leftarrow w + \eta_g \, \mathrm{mean}_{i \in S} (y_i - w), \quad
  c \leftarrow c + \tfrac1N \sum_{i \in S} (c_i^+ - c_i)

with S the clients that took part, out of N. Down: w and c. Up: the differences
of y_i and of c_i.

With weight decay, f_i includes its penalty. With momentum beta, K above is the
sum of (1 - beta^k) / (1 - beta) over the steps k = 1 to K: as far as constant
gradients of 1 would take a client at eta = 1. So c_i stays a mean of gradients,
the earlier ones with more weight, since they move the client for longer.
Published comparisons that run SCAFFOLD with momentum divide by the number of
steps, and their c_i overstate gradients by up to 1 / (1 - beta); they correct
the weights for it, where here the gradient is corrected before momentum.
Distances say nothing about gradients with Adam or clipped weights, which are
refused. Quantized clients correct only the gradient of their weights x; c_i
then includes the mean pull of the proximal map, and their levels stay with
them.

Optimizer states: that of the weights starts afresh each round (plain SGD has
none that matters); that of the levels stays with the client.

References:
  Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, SCAFFOLD: Stochastic
  Controlled Averaging for Federated Learning, 2020.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  centers,
  messages,
  trees,
)
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class ScaffoldOptions:
  """Settings of SCAFFOLD.

  Attributes:
    method: the method's name, for errors.
    server_learning_rate: eta_g, the server's step size.
    weighting: weights of the clients in the mean of models: "uniform" or by
      "samples"; in the mean of control variates they are always uniform.
  """

  method: ClassVar[str] = "scaffold"

  server_learning_rate: float = api.traced(1.0)
  weighting: str = "uniform"

  def __post_init__(self):
    checks.positive(
      f"{self.method}.server_learning_rate", self.server_learning_rate
    )
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


class Controlled(NamedTuple):
  """The server's state, its download, and (as differences) a message.

  Attributes:
    model: the GlobalModel.
    control: a tree over the parameters: c, or the difference of c_i.
  """

  model: api.GlobalModel
  control: Any


class ScaffoldClient(NamedTuple):
  """What stays with a client.

  Attributes:
    levels: the levels of its quantized model.
    control: c_i, a tree over the parameters.
  """

  levels: averaging.Levels
  control: Any


def _lengths(steps: int, momentum: float) -> jax.Array:
  """How far 0, 1, ... steps go from zero momentum, by gradients of 1.

  Args:
    steps: the most steps.
    momentum: beta; with 0, k steps go k.

  Returns:
    float32 `[steps + 1]`.
  """
  velocities = np.cumsum(np.power(float(momentum), np.arange(steps)))
  return jnp.asarray(np.append(0, np.cumsum(velocities)), jnp.float32)


def make_scaffold(
  models: api.Models,
  training: Training,
  options: ScaffoldOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes SCAFFOLD.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train, by SGD with or without momentum.
    options: the method's own settings.
    federation: has `num_clients`, N.

  Raises:
    ValueError: a cohort with another architecture, or steps that are not sums
      of gradients.
  """
  if training.momentum is None:
    raise ValueError(
      "optimizer: must be 'sgd' or 'momentum', with weight_clip=0, with "
      f"method={options.method!r}, whose controls are gradients told from how "
      "far a client went"
    )
  lengths = _lengths(training.steps, training.momentum)
  method = averaging.averaging_method(
    options.method,
    models,
    training,
    weighting=options.weighting,
    correction=lambda download, params: download.control,
  )

  def init_server(key, inputs):
    model = method.init_server(key, inputs)
    return Controlled(model, jax.tree.map(jnp.zeros_like, model.params))

  def init_client(key, inputs, server, client_id, spec, cohort):
    levels = method.init_client(key, inputs, server, client_id, spec, cohort)
    return ScaffoldClient(levels, jax.tree.map(jnp.zeros_like, server.control))

  def client_update(download, client, data, context, cohort):
    apart = trees.difference(download.control, client.control)
    result = method.client_update(
      download._replace(control=apart), client, data, context, cohort
    )
    moved = result.message
    steps = training.steps
    if context.num_steps is not None:
      steps = jnp.minimum(steps, context.num_steps)
    scale = lengths[steps] * context.rates.learning_rate
    stepped = scale > 0
    # The move is eta times K gradients; without a step, nothing is learned.
    update = jax.tree.map(
      lambda c, d: jnp.where(
        stepped, -c - d / jnp.where(stepped, scale, 1.0), 0.0
      ),
      download.control,
      moved.params,
    )
    control = jax.tree.map(jnp.add, client.control, update)
    return result._replace(
      client=result.client._replace(control=control),
      message=Controlled(moved, update),
    )

  def receive(server, message, weight, context, cohort):
    sums = api.weighted_sum(server, message.model, weight, context, cohort)
    return sums._replace(total=Controlled(sums.total, message.control))

  def server_update(server, aggregates, context):
    del context
    moved = messages.mean_message(
      {k: a._replace(total=a.total.model) for k, a in aggregates.items()},
      server.model,
    )
    steps = jax.tree.map(
      lambda d: options.server_learning_rate * d, moved.params
    )
    updates = [a.total.control for a in aggregates.values()]
    control = jax.tree.map(
      lambda c, *u: c + sum(u) / federation.num_clients,
      server.control,
      *updates,
    )
    model = messages.add(server.model, moved._replace(params=steps))
    return messages.if_heard(aggregates, Controlled(model, control), server)

  def broadcast(server, context, cohort):
    return server._replace(model=method.broadcast(server, context, cohort))

  return method.replace(
    init_server=init_server,
    init_client=init_client,
    broadcast=broadcast,
    client_update=client_update,
    receive=receive,
    averages=False,
    differences=lambda download: download,
    robust=centers.in_place_of_sum,
    server_update=server_update,
    server_moves=lambda server: server.model.params,
  )
