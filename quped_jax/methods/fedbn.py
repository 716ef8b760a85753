"""FedBN: everything but the normalisation layers is averaged.

Scales, offsets and running statistics of normalisation layers adapt to each
client's own features; the rest is FedAvg. A normalisation layer is one with a
parameter `scale`. Its parameters stay with the client, as do all batch-norm
statistics. Down: the rest of the global model. Up: the difference after the
local steps. The server takes the weighted mean.

Quantized clients train by the alternating steps, with levels of their own that
stay with them. A held-out client starts from the server's initial
normalisation. No global model is evaluated, since the server's normalisation is
never trained.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client. Those of normalisation
layers start afresh too.

References:
  Li, Jiang, Zhang, Kamp, Dou, FedBN: Federated Learning on Non-IID Features via
  Local Batch Normalization, 2021.
"""

import dataclasses
from typing import Any

import jax

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import partial
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization.codebook_tree import path_name


@dataclasses.dataclass(frozen=True)
class FedbnOptions:
  """Settings of FedBN.

  Attributes:
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  weighting: str = "samples"

  def __post_init__(self):
    checks.choice("fedbn.weighting", self.weighting, api.WEIGHTINGS)


def _layer(path: str) -> str:
  return path.rpartition("/")[0]


def normalisation_layers(params: Any) -> frozenset[str]:
  """The paths of the layers that have a parameter `scale`."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  names = [path_name(path) for path, _ in leaves]
  return frozenset(
    _layer(name) for name in names if name.rpartition("/")[2] == "scale"
  )


def make_fedbn(
  models: api.Models,
  training: Training,
  options: FedbnOptions,
) -> api.FederatedMethod:
  """Makes FedBN.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without normalisation.
  """

  def predicate_of(params):
    layers = normalisation_layers(params)
    if not layers:
      raise ValueError(
        f"model={models.shared.name!r}: must have normalisation layers (with a "
        "parameter 'scale') with method='fedbn', which leaves them to clients"
      )
    # Statistics are also under the paths of their layers.
    return lambda path: _layer(path) in layers

  return partial.partial_method(
    "fedbn", models, training, predicate_of, weighting=options.weighting
  )
