"""CFD: compressed federated distillation with quantized soft labels.

As in ds_fl, the clients' mean softmax output on a public set without labels
teaches a server model, but it is not sharpened. Clients then receive that
model's own soft labels (dual distillation). In both directions soft labels
travel with b bits per entry: integers that sum to 2^b - 1 for every sample, by
largest remainder. At 1 bit that is the one-hot label of the largest entry.

Down: the server's soft labels of the previous round, packed, with the indices
of their public samples and of this round's. Up: the softmax outputs on this
round's samples, packed. No model travels, so architectures may differ.
Quantized clients distil and train by the alternating steps; their outputs are
those of the weights in training.

Left out: delta coding, which sends only the labels that changed since the last
round and needs messages whose size depends on their values. Here a one-hot
label takes 1 bit per class, not its entropy.

Optimizer states: those of the client's own weights and levels stay with it, and
serve all its steps, on public samples and on its own; that of the server's
distillation starts afresh each round.

References:
  Sattler, Marban, Rischke, Samek, CFD: Communication-Efficient Federated
  Distillation via Soft-Label Quantization and Delta Coding, 2021.
"""

import dataclasses
from typing import ClassVar

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import quantized_labels, soft_labels
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class CfdOptions(soft_labels.SoftLabelOptions):
  """Settings of CFD, in addition to those of `SoftLabelOptions`.

  Attributes:
    bits_up: bits per entry of the soft labels that clients send, 1 to 8 or 32.
    bits_down: bits per entry of those that they receive, 1 to 8 or 32.
  """

  method: ClassVar[str] = "cfd"

  bits_up: int = 1
  bits_down: int = 1

  def __post_init__(self):
    quantized_labels.check_bits("cfd.bits_up", self.bits_up)
    quantized_labels.check_bits("cfd.bits_down", self.bits_down)
    super().__post_init__()


def make_cfd(
  models: api.Models,
  training: Training,
  options: CfdOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes CFD.

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
    dual=True,
    bits_up=options.bits_up,
    bits_down=options.bits_down,
  )
