"""LG-FedAvg: each client's own lower layers, and shared last ones.

The reverse of FedPer. Clients learn representations of their own samples, and
together a classifier of these: a client trains the whole model, and only its
last layers travel. Down: the last layers. Up: their difference after the local
steps. The server takes the mean in which all clients count alike.

Quantized clients train by the alternating steps, with levels of their own that
stay with them. Batch-norm statistics stay or travel with the layers that they
belong to. A held-out client starts from the server's initial lower layers. No
global model is evaluated, since the server's lower layers are never trained.

The released code shares two or three layers and begins from a model that FedAvg
has trained (a warm start does this here). It keeps the model of each client
that was best on test data, where here the last one is evaluated. The paper's
adversary that hides sensitive attributes is left out.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency, Think
  Locally, Act Globally: Federated Learning with Local and Global
  Representations, 2020.
"""

import dataclasses

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import divided, partial
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class LgFedavgOptions:
  """Settings of LG-FedAvg.

  Attributes:
    global_layers: how many of the model's last blocks are shared; 1 for the
      last layer.
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  global_layers: int = 1
  weighting: str = "uniform"

  def __post_init__(self):
    checks.at_least("lg_fedavg.global_layers", self.global_layers, 1)
    checks.choice("lg_fedavg.weighting", self.weighting, api.WEIGHTINGS)


def make_lg_fedavg(
  models: api.Models,
  training: Training,
  options: LgFedavgOptions,
) -> api.FederatedMethod:
  """Makes LG-FedAvg.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without so many blocks.
  """

  def predicate_of(params):
    is_shared = divided.last_blocks(
      "lg_fedavg.global_layers", options.global_layers, models.shared, params
    )
    return lambda path: not is_shared(path)

  return partial.partial_method(
    "lg_fedavg", models, training, predicate_of, weighting=options.weighting
  )
