r"""FedAvg: the server averages the models that clients train from its own.

Down: the global model w. Up: the difference after the local steps. The server
takes the mean weighted by samples and passes it to its own optimizer (plain SGD
with step size 1 is FedAvg, momentum is FedAvgM). "adam" is FedAdam as in its
paper: with the mean difference Delta, without bias correction, and with tau
outside the root,

.. math::
  m &\leftarrow \beta_1 m + (1 - \beta_1) \Delta, \quad m_0 = 0 \\
  v &\leftarrow \beta_2 v + (1 - \beta_2) \Delta^2, \quad v_0 = \tau^2 \\
  w &\leftarrow w + \eta_g \, m / (\sqrt{v} + \tau)

The paper asks for v_0 of at least tau^2; this is the least.

Quantized clients train w by the alternating steps, with levels of their own
that stay with them; their quantized model is the global one at these levels.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; that of the server's
optimizer stays at the server.

References:
  McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient
  Learning of Deep Networks from Decentralized Data, 2017.
  Reddi et al., Adaptive Federated Optimization, 2021.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, messages
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import optimizers, step_sizes


@dataclasses.dataclass(frozen=True)
class FedavgOptions:
  """Settings of FedAvg, and of methods that differ from it at clients only.

  Attributes:
    method: the method's name, for errors.
    server_optimizer: the server's optimizer: "sgd", "momentum", "adam"
      (FedAdam), or "adamw", which is Adam with bias correction and the usual
      constants.
    server_learning_rate: its step size; 1 with "sgd" is the plain mean.
    server_momentum: decay rate of "momentum", and beta_1 of "adam".
    server_beta2: decay rate of the squares, in "adam".
    server_tau: tau of "adam": where differences are much smaller, it takes
      plain steps of size `server_learning_rate / server_tau`.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  method: ClassVar[str] = "fedavg"

  server_optimizer: str = "sgd"
  server_learning_rate: float = api.traced(1.0)
  server_momentum: float = api.traced(0.9)
  server_beta2: float = api.traced(0.99)
  server_tau: float = api.traced(1e-3)
  weighting: str = "samples"

  def __post_init__(self):
    checks.choice(
      f"{self.method}.server_optimizer",
      self.server_optimizer,
      optimizers.OPTIMIZERS,
    )
    checks.positive(
      f"{self.method}.server_learning_rate", self.server_learning_rate
    )
    checks.unit_interval(f"{self.method}.server_momentum", self.server_momentum)
    checks.unit_interval(f"{self.method}.server_beta2", self.server_beta2)
    checks.positive(f"{self.method}.server_tau", self.server_tau)
    if self.server_optimizer == "adam" and self.server_momentum == 1:
      raise ValueError(
        f"{self.method}.server_momentum={self.server_momentum}: must be less "
        "than 1 with server_optimizer='adam', which would not move"
      )
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


class FedavgServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the GlobalModel.
    opt_state: state of the server's optimizer.
  """

  model: api.GlobalModel
  opt_state: Any


class FedadamState(NamedTuple):
  """State of FedAdam.

  Attributes:
    mean: m, a tree over the parameters.
    squares: v, likewise.
  """

  mean: Any
  squares: Any


def scale_by_fedadam(
  beta1: float, beta2: float, tau: float
) -> optax.GradientTransformation:
  """FedAdam's direction, for a step size; see above."""

  def init(params):
    return FedadamState(
      jax.tree.map(jnp.zeros_like, params),
      jax.tree.map(lambda p: jnp.full_like(p, tau**2), params),
    )

  def update(updates, state, params=None):
    del params
    mean = jax.tree.map(
      lambda m, u: beta1 * m + (1 - beta1) * u, state.mean, updates
    )
    squares = jax.tree.map(
      lambda v, u: beta2 * v + (1 - beta2) * u**2, state.squares, updates
    )
    scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + tau), mean, squares)
    return scaled, FedadamState(mean, squares)

  return optax.GradientTransformation(init, update)


def _server_optimizer(options: FedavgOptions):
  """The server's optimizer; its `update` takes `learning_rate`."""
  if options.server_optimizer == "adam":
    return optax.chain(
      scale_by_fedadam(
        options.server_momentum, options.server_beta2, options.server_tau
      ),
      step_sizes.scale_by_step_size(),
    )
  return optimizers.base_optimizer(
    options.server_optimizer, momentum=options.server_momentum
  )


def make_fedavg(
  models: api.Models,
  training: Training,
  options: FedavgOptions,
) -> api.FederatedMethod:
  """Makes FedAvg.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  method = averaging.averaging_method(
    options.method, models, training, weighting=options.weighting
  )
  server_optimizer = _server_optimizer(options)

  def init_server(key, inputs):
    shared = method.init_server(key, inputs)
    return FedavgServer(shared, server_optimizer.init(shared.params))

  def server_update(server, aggregates, context):
    del context
    mean = messages.mean_message(aggregates, server.model)
    updates, opt_state = server_optimizer.update(
      jax.tree.map(jnp.negative, mean.params),
      server.opt_state,
      server.model.params,
      learning_rate=options.server_learning_rate,
    )
    model = messages.add(server.model, mean._replace(params=updates))
    new = FedavgServer(model, opt_state)
    # With momentum, the server would move even if the mean is zero.
    return messages.if_heard(aggregates, new, server)

  return method.replace(
    init_server=init_server,
    server_update=server_update,
    server_moves=lambda server: server.model.params,
  )
