"""FedAvg: the server averages the models that clients train from its own.

Down: the global model w. Up: the difference after the local steps. The server
takes the mean weighted by samples and passes it to its own optimizer (plain SGD
with step size 1 is FedAvg, momentum is FedAvgM, Adam is FedAdam).

Quantized clients train w by the alternating steps, with levels of their own
that stay with them; their quantized model is the global one at these levels.

References:
  McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient
  Learning of Deep Networks from Decentralized Data, 2017.
  Reddi et al., Adaptive Federated Optimization, 2021.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, messages
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import optimizers


@dataclasses.dataclass(frozen=True)
class FedavgOptions:
  """Settings of FedAvg, and of methods that differ from it at clients only.

  Attributes:
    method: the method's name, for errors.
    server_optimizer: the server's optimizer: "sgd", "momentum", "adam" or
      "adamw".
    server_learning_rate: its step size; 1 with "sgd" is the plain mean.
    server_momentum: decay rate of "momentum".
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  method: ClassVar[str] = "fedavg"

  server_optimizer: str = "sgd"
  server_learning_rate: float = 1.0
  server_momentum: float = 0.9
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
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


class FedavgServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the GlobalModel.
    opt_state: state of the server's optimizer.
  """

  model: api.GlobalModel
  opt_state: Any


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
  server_optimizer = optimizers.base_optimizer(
    options.server_optimizer, momentum=options.server_momentum
  )

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

  return method.replace(init_server=init_server, server_update=server_update)
