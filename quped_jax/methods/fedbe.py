r"""FedBE: FedAvg, then distillation of a Bayesian ensemble at the server.

The clients' models are seen as draws from a distribution of models, from which
the server draws more. It fits a Gaussian to the directions of the clients'
differences, tensor by tensor, with u_k the difference d_k divided by its norm,

.. math::
  w^{(s)} = w + \operatorname{mean}_k |d_k| \;\Big(\operatorname{mean}_k u_k
    + \sigma \sqrt{\operatorname{var}_k u_k} \; \epsilon^{(s)}\Big),
    \quad \epsilon^{(s)} \sim N(0, I).

Teachers are the clients' models, their mean and S samples. On a public set
without labels, the server takes the mean p of their softmax outputs, sharpens
it, and distils it into the mean of the clients' models,

.. math::
  \min_w \; \mathrm{KL}\big(\hat p(v) \,\|\, \mathrm{softmax}(g_w(v))\big),
    \quad \hat p_c \propto p_c^{1/T},

where g are logits and v public samples. The new w is the mean of the last
models of the distillation (stochastic weight averaging).

Each architecture has a Gaussian, samples and a student of its own; all learn
from the teachers of all architectures. `weighting` is for the mean of the
parameters only.

Down: w of the client's architecture. Up: the difference after the local steps.
Quantized clients train as in FedAvg: the server sees their weights in training.
Samples have the batch-norm statistics of the mean; those of quantized models
move, in the distillation, as those of the model do.

Unlike the released code: the divergence is not divided by the number of
classes, the variance has no floor, and every step counts in the mean of the
last models, not one in 25. Left out: samples from a Dirichlet distribution over
the clients (mixtures of their models), and a cyclical step size.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; that of the distillation
starts afresh each round.

References:
  Chen, Chao, FedBE: Making Bayesian Model Ensemble Applicable to Federated
  Learning, 2021.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks, random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import ensemble, predictions, requirements
from quped_jax.methods.blocks import public as public_lib
from quped_jax.methods.blocks.training import Training


@dataclasses.dataclass(frozen=True)
class FedbeOptions(ensemble.EnsembleOptions):
  """Settings of FedBE, in addition to those of `EnsembleOptions`.

  Attributes:
    samples: S, how many models are drawn for each architecture.
    spread: sigma, by which their standard deviation is multiplied.
    temperature: T, which sharpens the teachers' mean; 1 does not.
    averaged_steps: how many of the last distillation steps the new model is the
      mean of; 1 for the last alone.
  """

  method: ClassVar[str] = "fedbe"

  distill_optimizer: str = "momentum"
  samples: int = 10
  spread: float = api.traced(0.1)
  temperature: float = api.traced(0.5)
  averaged_steps: int = 60

  def __post_init__(self):
    super().__post_init__()
    checks.at_least("fedbe.samples", self.samples, 0)
    checks.not_negative("fedbe.spread", self.spread)
    checks.positive("fedbe.temperature", self.temperature)
    checks.at_least("fedbe.averaged_steps", self.averaged_steps, 1)


class Said(NamedTuple):
  """What the server sums over clients.

  Attributes:
    outputs: softmax outputs on the public set, `[public, classes]`.
    directions: u, tree like the parameters.
    squares: u^2, likewise.
    lengths: |d|, tree of scalars.
  """

  outputs: jax.Array
  directions: Any
  squares: Any
  lengths: Any


def say(message: api.GlobalModel, logits: jax.Array) -> Said:
  """What a client says: its outputs, and where it went."""
  lengths = jax.tree.map(optax.tree.norm, message.params)
  # A tensor that did not move has no direction.
  directions = jax.tree.map(
    lambda d, length: d / jnp.where(length > 0, length, 1.0),
    message.params,
    lengths,
  )
  squares = jax.tree.map(jnp.square, directions)
  return Said(jax.nn.softmax(logits), directions, squares, lengths)


def draw(
  key: jax.Array, params: Any, said: Said, count: jax.Array, spread: float
) -> Any:
  """Draws a model from the Gaussian of the clients' differences.

  Args:
    key: a random key.
    params: w, the parameters before the round.
    said: what the clients said in all.
    count: how many they are.
    spread: sigma.
  """
  means = jax.tree.map(lambda x: x / jnp.maximum(count, 1), said)
  noise = optax.tree.random_like(key, params, jax.random.normal)

  def one(w, length, u, square, epsilon):
    deviation = jnp.sqrt(jnp.maximum(square - jnp.square(u), 0.0))
    return w + length * (u + spread * deviation * epsilon)

  return jax.tree.map(
    one, params, means.lengths, means.directions, means.squares, noise
  )


def make_fedbe(
  models: api.Models,
  training: Training,
  options: FedbeOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedBE.

  Args:
    models: the networks; a single cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the public set.

  Raises:
    ValueError: no public set; a single cohort with another architecture than
      the global one; a loss that is not over classes.
  """
  requirements.check_classes("fedbe", training, "it averages softmax outputs")

  def outputs(cohort, params, stats, context):
    model, data = models.clients[cohort], context.public.data()
    return jax.nn.softmax(predictions.predict(model, params, stats, data))

  def teach(before, students, heard, context):
    key = jax.random.fold_in(context.key, random_keys.FEDBE_SAMPLES)

    def of_mean_and_samples(cohort):
      params, stats, _ = students[cohort]
      base, (_, said, count) = before[cohort].params, heard[cohort]

      def of_sample(key):
        drawn = draw(key, base, said, count, options.spread)
        return outputs(cohort, drawn, stats, context)

      found = outputs(cohort, params, stats, context)
      if not options.samples:
        return found
      keys = jax.random.split(key, options.samples)
      return found + jnp.sum(jax.lax.map(of_sample, keys), axis=0)

    total = sum(h.said.outputs for h in heard.values())
    count = sum(h.count for h in heard.values())
    for cohort, own in heard.items():
      # An architecture of which nobody was heard teaches nothing.
      present = (own.count > 0).astype(own.count.dtype)
      total += present * of_mean_and_samples(cohort)
      count += present * (1 + options.samples)
    mean = total / jnp.maximum(count, 1)
    tiny = jnp.finfo(mean.dtype).tiny
    return jax.nn.softmax(
      jnp.log(jnp.maximum(mean, tiny)) / options.temperature
    )

  return ensemble.ensemble_method(
    models,
    training,
    options,
    federation,
    say=say,
    teach=teach,
    loss=public_lib.soft_cross_entropy,
    last=options.averaged_steps,
  )
