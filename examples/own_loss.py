"""A loss of your own, in any method: here, rare classes weigh more.

python examples/own_loss.py

A loss is a function of a batch's outputs and labels, yours or one of optax.
"""

import jax.numpy as jnp
import optax

import quped_jax as qj

qj.use_compilation_cache()  # A further run need not compile.

WEIGHTS = jnp.array([5.0, *[1.0] * 9])  # Class 0 counts five times.


def weighted(logits, labels):
  """The mean cross-entropy of a batch, by the weight of each label's class."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  weights = WEIGHTS[labels]
  return jnp.sum(weights * losses) / jnp.sum(weights)


settings = qj.Settings(method="quped", clients=6, bits=(1,), rounds=3)
print(qj.run(settings, loss=weighted).summary["accuracy"]["quantized"])
