r"""DS-FL: federated distillation with sharpened means of soft labels.

Clients and server teach each other on a public set without labels. The clients'
mean softmax output p is sharpened, which the paper calls entropy reduction
aggregation,

.. math:: \hat p = \mathrm{softmax}(p / T),

and clients and server distil it: cross entropy to p-hat. Non-IID clients,
whose mean is close to uniform, still learn from it.

Down: p-hat of the round before, and which public samples they and this
round's are of. Up: the softmax outputs on this round's samples. No model
travels, so architectures may differ. Quantized clients distil and train by the
alternating steps; their outputs are those of the weights in training.

Left out: the aggregation by plain mean (see cfd).

References:
  Itahara, Nishio, Koda, Morikura, Yamamoto, Distillation-Based Semi-Supervised
  Federated Learning for Communication-Efficient Collaborative Training with
  Non-IID Private Data, 2021.
"""

import dataclasses
from typing import Any

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import soft_labels
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class DsFlOptions:
  """Settings of DS-FL.

  Attributes:
    temperature: T of the sharpening.
    public_samples: drawn from the public set for each round; 0 for all.
    digest_steps: of a client on the soft labels per round.
    distill_steps: of the server per round, one batch of the clients' batch
      size each.
    distill_learning_rate: their step size.
    distill_optimizer: "sgd", "momentum", "adam" or "adamw", fresh each round.
    weighting: of the clients in the mean, "uniform" or by "samples".
  """

  temperature: float = 0.1
  public_samples: int = 0
  digest_steps: int = 5
  distill_steps: int = 50
  distill_learning_rate: float = 1e-3
  distill_optimizer: str = "adam"
  weighting: str = "uniform"

  def __post_init__(self):
    checks.positive("ds_fl.temperature", self.temperature)
    soft_labels.check_options("ds_fl", self)


def make_ds_fl(
  models: api.Models,
  federation: Any,
  training: Training,
  options: DsFlOptions,
) -> api.FederatedMethod:
  """Makes DS-FL.

  Args:
    models: of each cohort and of the server.
    federation: has the public set.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: no public set, or one smaller than the samples of a round.
  """
  return soft_labels.soft_label_method(
    "ds_fl",
    models,
    federation,
    training,
    options,
    dual=False,
    temperature=options.temperature,
  )
