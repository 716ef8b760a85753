"""FedPer: shared lower layers, and each client's own last layers.

A client trains the whole model, that is the lower layers that it received and
its own last ones together; only the lower ones travel. Down: the lower layers.
Up: their difference after the local steps. The server takes the weighted mean.
FedRep differs in that it trains the two parts in turn, and has only the last
layer as a client's own.

Quantized clients train by the alternating steps, with levels of their own that
stay with them. Batch-norm statistics are shared with the layers that they
belong to. A held-out client starts from the server's initial last layers. No
global model is evaluated, since the server's last layers are never trained.

The paper's method is told from memory and from others' implementations, not
checked against its authors' code.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Arivazhagan, Aggarwal, Singh, Choudhary, Federated Learning with
  Personalization Layers, 2019.
"""

import dataclasses

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import divided, partial
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedperOptions:
  """Settings of FedPer.

  Attributes:
    own_layers: how many of the model's last blocks are a client's own; 1 for
      the last layer.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  own_layers: int = 1
  weighting: str = "samples"

  def __post_init__(self):
    checks.at_least("fedper.own_layers", self.own_layers, 1)
    checks.choice("fedper.weighting", self.weighting, api.WEIGHTINGS)


def make_fedper(
  models: api.Models,
  training: Training,
  options: FedperOptions,
) -> api.FederatedMethod:
  """Makes FedPer.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without so many blocks, or without others.
  """
  model, count = models.shared, options.own_layers

  def predicate_of(params):
    if model.blocks is not None and count >= len(model.blocks):
      raise ValueError(
        f"fedper.own_layers={count}: must be less than {len(model.blocks)}, "
        f"the number of blocks of model={model.name!r}, so that some are shared"
      )
    return divided.last_blocks("fedper.own_layers", count, model, params)

  return partial.partial_method(
    "fedper", models, training, predicate_of, weighting=options.weighting
  )
