r"""FedMLB: clients' blocks must also serve the global model's later blocks.

A network is a sequence of L blocks. Besides the main path, which is the
client's network, a batch takes L - 1 branches: branch l runs the client's
blocks 1 to l, then the blocks l + 1 to L of the received global model w, so in
the last one the last layer alone is that of w. With v the logits of the main
path and v_l those of the branches,

.. math::
  \mathrm{CE}(v) + \frac1{L-1} \sum_{l=1}^{L-1} \Big( \lambda_1 \mathrm{CE}(v_l)
    + \lambda_2 \, \mathrm{KL}\big(\mathrm{softmax}(v_l / T) \,\|\,
      \mathrm{softmax}(v / T)\big) \Big)

The blocks of w are constant and use their running batch-norm statistics;
gradients pass through them to the client's blocks before. As in the authors'
code, the divergence has no factor T^2, and it teaches both of its sides: main
path and branch.

Down: w. Up: the difference after the local steps. The server takes the weighted
mean. Quantized clients minimise this at x and at Q(x), with levels of their own
that stay with them; w has full precision. In gradient evaluations, a branch
counts by the share of the blocks that are those of w.

The paper divides a ResNet-18 into six blocks; here every network's own blocks
are taken, such as each layer of an MLP and each residual block.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Kim, Kim, Han, Multi-Level Branched Regularization for Federated Learning,
  2022.
"""

import dataclasses

import jax.numpy as jnp

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, requirements
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass


@dataclasses.dataclass(frozen=True)
class FedmlbOptions:
  """Settings of FedMLB; with both weights 0 it is FedAvg.

  Attributes:
    lambda_1: weight of the loss of the branches on the labels, at least 0.
    lambda_2: weight of their divergence from the main path, at least 0.
    temperature: T, by which logits are divided in the divergence.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  lambda_1: float = api.traced(1.0)
  lambda_2: float = api.traced(1.0)
  temperature: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedmlb.lambda_1", self.lambda_1)
    checks.not_negative("fedmlb.lambda_2", self.lambda_2)
    checks.positive("fedmlb.temperature", self.temperature)
    checks.choice("fedmlb.weighting", self.weighting, api.WEIGHTINGS)


def make_fedmlb(
  models: api.Models,
  training: Training,
  options: FedmlbOptions,
) -> api.FederatedMethod:
  """Makes FedMLB.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture, or a network whose blocks
      are unknown or too few.
  """
  blocks = requirements.check_blocks("fedmlb", models.shared)

  def stages(params, stats, inputs, train, *key):
    """The outputs of all blocks, in place of the last one's."""
    outputs = []
    for block in blocks:
      inputs, stats = block.apply(params, stats, inputs, train, *key)
      outputs.append(inputs)
    return outputs, stats

  staged = models.shared._replace(apply=stages)

  def local_loss(download, batch, context):
    del context

    def branch(start, outputs):
      for block in blocks[start:]:
        outputs, _ = block.apply(
          download.params, download.stats, outputs, False
        )
      return outputs

    def of_branch(logits, main):
      divergence = training.divergence(logits, main, options.temperature)
      unscaled = divergence / options.temperature**2
      loss = training.loss(logits, batch.labels)
      return options.lambda_1 * loss + options.lambda_2 * unscaled

    def objective(params, stats):
      (*outputs, main), stats = training_pass(staged, params, stats, batch)
      branches = [branch(n, x) for n, x in enumerate(outputs, start=1)]
      terms = jnp.stack([of_branch(logits, main) for logits in branches])
      return training.loss(main, batch.labels) + jnp.mean(terms), stats

    return objective

  method = averaging.averaging_method(
    "fedmlb",
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
  )
  # 1/L for each of w's blocks: L - 1 in the first branch, one in the last.
  networks = 1 + (len(blocks) - 1) / 2
  return method.replace(
    gradients=training.steps * training.gradients_per_step * networks
  )
