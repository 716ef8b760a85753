r"""FedCAD: clients distil from the global model what classes it knows well.

.. math::
  \mathrm{CE} + \frac1B \sum_b \sum_c
    \big( m \, M_c \, (u_{bc} - v_{bc}) \big)^2

with u the logits of the received global model w, v those of the student, and
M_c how credible w is for class c: the share of it that w knows, times one minus
the largest share of another class that w takes for it (see
`blocks/credibility.py`). So w teaches nothing about a class that it does not
know. It predicts with its running batch-norm statistics.

The server has a public set with labels, on which it computes M after each
round; before the first one M is zero. Down: w and M. Up: the difference after
the local steps. The server takes the weighted mean. Quantized clients minimise
this at x and at Q(x), with levels of their own that stay with them; w has full
precision.

From memory of the paper, and from FedSSD, by the same authors, which adds a
weight for each sample; not checked against its code, which is not public. The
default of m makes distillation about as strong as that of FedSSD.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  He, Chen, Yang, Zhang, Zeng, Class-Wise Adaptive Self Distillation for
  Federated Learning on Non-IID Data, 2022.
"""

import dataclasses
from typing import ClassVar

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import credibility
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedcadOptions(credibility.CredibilityOptions):
  """Settings of FedCAD: those of `CredibilityOptions`, with another default.

  Attributes:
    strength: m. With 1, squared distances may be too steep for usual step
      sizes, above all of quantized clients.
  """

  method: ClassVar[str] = "fedcad"

  strength: float = api.traced(0.3)


def make_fedcad(
  models: api.Models,
  training: Training,
  options: FedcadOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedCAD.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.

  Raises:
    ValueError: no labelled public set, labels that are no classes, or a cohort
      with another architecture.
  """

  def weigh(known, taught, labels):
    del taught, labels
    return known[None]

  return credibility.credibility_method(
    models, training, options, federation, weigh
  )
