r"""FedGKD: clients also learn from the mean of the last global models.

.. math:: \mathrm{CE} + \tfrac{\gamma}{2} \, \mathrm{KL}(\bar w \,\|\, w)

for a student w and a teacher whose parameters are the mean of those of the last
M global models (of all so far in the first rounds). The teacher predicts with
its running batch-norm statistics, which are averaged likewise.

Down: the global model and, if M > 1, the teacher; with M = 1 they are the same.
Up: the difference after the local steps. The server takes the weighted mean.
Quantized clients minimise this at x and at Q(x), with levels of their own that
stay with them; the teacher has full precision.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Yao, Pan, Dai, Wan, Ding, Yu, Jin, Xu, Sun, FedGKD: Toward Heterogeneous
  Federated Learning via Global Knowledge Distillation, 2023.
"""

import dataclasses
from typing import NamedTuple

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, history
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedgkdOptions:
  """Settings of FedGKD.

  Attributes:
    gamma: weight of distillation (halved in the loss), at least 0.
    models: M, the number of global models that the teacher averages, at least
      1.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  gamma: float = api.traced(0.2)
  models: int = 5
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedgkd.gamma", self.gamma)
    checks.at_least("fedgkd.models", self.models, 1)
    checks.choice("fedgkd.weighting", self.weighting, api.WEIGHTINGS)


class FedgkdDownload(NamedTuple):
  """What a client receives if the teacher is not the global model itself.

  Attributes:
    model: the global model.
    teacher: the mean of the last global models.
  """

  model: api.GlobalModel
  teacher: api.GlobalModel


def make_fedgkd(
  models: api.Models,
  training: Training,
  options: FedgkdOptions,
) -> api.FederatedMethod:
  """Makes FedGKD.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  model = models.shared
  one = options.models == 1

  def local_loss(download, batch, context):
    del context
    teacher = download if one else download.teacher
    taught = averaging.predict(model, teacher, batch)
    return averaging.with_term(
      training,
      model,
      batch,
      lambda logits: options.gamma / 2 * training.divergence(taught, logits),
    )

  method = averaging.averaging_method(
    "fedgkd",
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
  )
  if one:
    return method

  def init_server(key, inputs):
    return history.begin(method.init_server(key, inputs), options.models)

  def broadcast(server, context, cohort):
    model = method.broadcast(server, context, cohort)
    teacher = history.mean(server)._replace(quantized_stats=None)
    return FedgkdDownload(model, teacher)

  return method.replace(
    init_server=init_server,
    broadcast=broadcast,
    server_update=history.add_mean,
  )
