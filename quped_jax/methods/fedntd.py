r"""FedNTD: clients preserve the global model's knowledge of not-true classes.

.. math:: \mathrm{CE} + \beta T^2 \, \mathrm{KL}(\tilde p \,\|\, \tilde q)

with p and q the predictions of the received global model and of the student,
both renormalised without the true class: the labels teach only that class, and
the global model teaches the order of the others. It predicts with its running
batch-norm statistics.

Down: the global model. Up: the difference after the local steps. The server
takes the weighted mean. Quantized clients minimise this at x and at Q(x), with
levels of their own that stay with them; the teacher has full precision.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Lee, Jeong, Shin, Bae, Yun, Preservation of the Global Knowledge by
  Not-True Distillation in Federated Learning, 2022.
"""

import dataclasses

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, distill, requirements
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedntdOptions:
  """Settings of FedNTD.

  Attributes:
    beta: weight of distillation, at least 0; 0 is FedAvg.
    temperature: T, by which logits are divided.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  beta: float = api.traced(1.0)
  temperature: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedntd.beta", self.beta)
    checks.positive("fedntd.temperature", self.temperature)
    checks.choice("fedntd.weighting", self.weighting, api.WEIGHTINGS)


def make_fedntd(
  models: api.Models,
  training: Training,
  options: FedntdOptions,
) -> api.FederatedMethod:
  """Makes FedNTD.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: labels are no classes; a cohort with another architecture.
  """
  requirements.check_classes(
    "fedntd", training, "it distils what is said of wrong classes"
  )
  model = models.shared

  def local_loss(download, batch, context):
    del context
    taught = averaging.predict(model, download, batch)

    def term(logits):
      return options.beta * distill.not_true_divergence(
        taught, logits, batch.labels, options.temperature
      )

    return averaging.with_term(training, model, batch, term)

  return averaging.averaging_method(
    "fedntd",
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
  )
