"""A loss of your own, in any method: here, rare classes weigh more.

python examples/own_loss.py

A method takes its loss from `training`. So a method that is made with another
one is the same method with your loss.
"""

import dataclasses

import jax.numpy as jnp
import optax

import quped_jax as qj

WEIGHTS = jnp.array([5.0, *[1.0] * 9])  # Class 0 counts five times.


def weighted(logits, labels):
  """The mean cross-entropy of a batch, by the weight of each label's class."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  weights = WEIGHTS[labels]
  return jnp.sum(weights * losses) / jnp.sum(weights)


quped = qj.methods.get_method("quped")


@dataclasses.dataclass(frozen=True)
class Options(quped.options):
  """Those of QuPeD."""


def make(models, training, options):
  """QuPeD with that loss."""
  training = training._replace(loss=weighted)
  return quped.build(models, training, options, federation=None)


qj.register_method("weighted_quped", make, Options)
settings = qj.Settings(method="weighted_quped", clients=6, bits=(1,), rounds=3)
print(qj.run(settings).summary["accuracy"]["quantized"])
