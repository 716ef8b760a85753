r"""FedRoD: one generic model for all classes, and a personal head beside it.

The body f and the generic head G are shared; each client has a head H of its
own, zero at first, that adds to the logits of G. With z = f(x), n(c) the
client's training samples of class c, and sg what counts as constant, a client
minimises

.. math::
  \mathrm{CE}(G(z) + \gamma \log n, \, y)
    + \mathrm{CE}(\mathrm{sg}(G(z)) + H(\mathrm{sg}(z)), \, y).

The first is the balanced softmax: logits of classes that the client has much of
are raised in training, so that G need not prefer them in use. It alone trains f
and G; the second alone trains H.

Down: f and G. Up: their difference after the local steps. The server takes the
weighted mean. "global" predicts by G, "personalized" by G + H, which is one
last layer. Quantized clients minimise this at x and at Q(x), with levels of
their own that stay with them; the last layer must have full precision, since
G + H has.

A class that the client has no sample of gets the logit -1e9 in place of log 0;
labels that are smoothed would ask for some of it, and are refused.
Left out: the hypernetwork that makes H from n. PFLlib, which is followed (the
authors published no code), starts H as a copy of G, and steps f and G before
it evaluates the second loss.

Optimizer states: that of the weights starts afresh each round, with the
download, for H too; that of the levels stays with the client.

References:
  Chen, Chao, On Bridging Generic and Personalized Federated Learning for Image
  Classification, 2022.
  Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, 2020.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import checks
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  divided,
  extended,
  local_steps,
  requirements,
)
from quped_jax.methods.blocks import generator as generator_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass
from quped_jax.models.base import HEAD


@dataclasses.dataclass(frozen=True)
class FedrodOptions:
  """Settings of FedRoD.

  Attributes:
    gamma: by how much the numbers of samples per class enter the balanced
      softmax, at least 0; 0 trains the shared model as FedAvg does.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  gamma: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedrod.gamma", self.gamma)
    checks.choice("fedrod.weighting", self.weighting, api.WEIGHTINGS)


def log_counts(counts: jax.Array) -> jax.Array:
  """log n of numbers of samples `[classes]`; -1e9 where there are none."""
  return jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1)), -1e9)


def make_fedrod(
  models: api.Models,
  training: Training,
  options: FedrodOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedRoD.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the samples.

  Raises:
    ValueError: a cohort with another architecture, a model whose head is not a
      dense layer of full precision, or labels that are no classes or are
      smoothed.
  """
  reason = "it balances the classes"
  requirements.check_classes("fedrod", training, reason)
  if training.smoothed:
    raise ValueError(
      "label_smoothing: must be 0 with method='fedrod', whose first loss rules "
      "out classes that a client has no samples of"
    )
  requirements.check_same_model("fedrod", models)
  width, classes = divided.check_linear(
    "fedrod", models.clients, federation, training, ("kernel", "bias")
  )
  model, body = models.shared, divided.body(models.shared)
  head: Any = model.head
  own = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}

  def train(learner, data, context):
    prior = options.gamma * log_counts(
      generator_lib.label_counts(data, classes)
    )

    def objective(batch):
      def loss(params, stats):
        shared = extended.without(params)
        features, stats = training_pass(body, shared, stats, batch)
        generic = head(shared, features)
        balanced = training.loss(generic + prior[None], batch.labels)
        fixed, z = jax.lax.stop_gradient((generic, features))
        personal = fixed + head({HEAD: params[extended.OWN]}, z)
        return balanced + training.loss(personal, batch.labels), stats

      return loss

    return local_steps.train(training, learner, objective, data, context)

  return extended.extended_method(
    "fedrod",
    models,
    training,
    own,
    lambda last, own: jax.tree.map(jnp.add, last, own),
    weighting=options.weighting,
    train=train,
  )
