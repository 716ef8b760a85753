r"""FedProx: FedAvg with clients that stay close to the global model.

.. math:: \min_w f_i(w) + \tfrac{\mu}{2} \|w - w_t\|^2

Down: the global model w_t. Up: the difference after the local steps. The
server takes the weighted mean.

Quantized clients minimise this at x and at Q(x), with levels of their own that
stay with them. By estimators with latent weights, these stay close, and not the
levels at which the network runs. In place of the paper's inexact local solver,
clients take the usual local steps.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated Optimization in
  Heterogeneous Networks, 2020.
"""

import dataclasses
from typing import ClassVar

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, trees
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedproxOptions:
  """Settings of FedProx.

  Attributes:
    method: the method's name, for errors.
    mu: weight of the proximal term, at least 0; 0 is FedAvg.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  method: ClassVar[str] = "fedprox"

  mu: float = api.traced(0.1)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative(f"{self.method}.mu", self.mu)
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


def make_fedprox(
  models: api.Models,
  training: Training,
  options: FedproxOptions,
) -> api.FederatedMethod:
  """Makes FedProx.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """

  def local_loss(download, batch, context):
    del context
    from_labels = training.label_objective(models.shared, batch)

    def objective(params, stats):
      loss, stats = from_labels(params, stats)
      apart = trees.squared_distance(params, download.params)
      return loss + options.mu / 2 * apart, stats

    return objective

  def pull(download, params):
    return trees.pull(params, download.params, options.mu)

  latent = training.alternating.latent
  return averaging.averaging_method(
    options.method,
    models,
    training,
    weighting=options.weighting,
    local_loss=None if latent else local_loss,
    correction=pull if latent else None,
  )
