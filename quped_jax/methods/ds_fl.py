r"""DS-FL: federated distillation with sharpened means of soft labels.

Clients and server teach each other on a public set without labels. The clients'
mean softmax output p is sharpened (the paper's entropy reduction aggregation),

.. math:: \hat p = \mathrm{softmax}(p / T),

and clients and server distil it: cross entropy to p-hat. Sharpening lets even
non-IID clients, whose mean is close to uniform, learn from it.

Down: p-hat of the previous round, with the indices of its public samples and of
this round's. Up: the softmax outputs on this round's samples. No model travels,
so architectures may differ. Quantized clients distil and train by the
alternating steps; their outputs are those of the weights in training.

Left out: aggregation by the plain mean (see cfd).

Optimizer states: those of the client's own weights and levels stay with it, and
serve all its steps, on public samples and on its own; that of the server's
distillation starts afresh each round.

References:
  Itahara, Nishio, Koda, Morikura, Yamamoto, Distillation-Based Semi-Supervised
  Federated Learning for Communication-Efficient Collaborative Training with
  Non-IID Private Data, 2021.
"""

import dataclasses
from typing import ClassVar

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import soft_labels
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class DsFlOptions(soft_labels.SoftLabelOptions):
  """Settings of DS-FL, in addition to those of `SoftLabelOptions`.

  Attributes:
    temperature: T, which sharpens the mean soft labels; smaller is sharper.
  """

  method: ClassVar[str] = "ds_fl"

  temperature: float = api.traced(0.1)

  def __post_init__(self):
    checks.positive("ds_fl.temperature", self.temperature)
    super().__post_init__()


def make_ds_fl(
  models: api.Models,
  training: Training,
  options: DsFlOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes DS-FL.

  Args:
    models: the networks of the cohorts and of the server.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.

  Raises:
    ValueError: labels are no classes; no public set, or one smaller than
      `public_samples`.
  """
  return soft_labels.soft_label_method(
    models,
    training,
    options,
    federation,
    dual=False,
    temperature=options.temperature,
  )
