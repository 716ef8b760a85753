"""Losses on logits: cross entropy, and the divergences of distillation.

All take logits `[batch, classes]` and return a scalar, the mean over the
batch. None looks at more than its arguments, so any method can use them.

References:
  Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015.
"""

import jax
import jax.numpy as jnp
import optax

TEMPERATURE_ON = ("both", "teacher")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross entropy.

  Args:
    logits: `[batch, classes]`.
    labels: int `[batch]`.
  """
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses)


def kl_divergence(
  first: jax.Array,
  second: jax.Array,
  temperature: float = 1.0,
  *,
  temperature_on: str = "both",
) -> jax.Array:
  r"""Softened divergence of two sets of logits.

  .. math::
    T^2 \, \frac1B \sum_b
      \mathrm{KL}(\mathrm{softmax}(u_b / T) \,\|\, \mathrm{softmax}(v_b / T))

  Differentiable in both arguments: a student that learns from u differentiates
  in v, while a global model that learns from v differentiates in u.

  Args:
    first: u, logits `[batch, classes]`; the teacher, in distillation.
    second: v, logits `[batch, classes]`.
    temperature: T, positive.
    temperature_on: "both", or "teacher" to divide only u by T.

  Raises:
    ValueError: unknown temperature_on.
  """
  if temperature_on not in TEMPERATURE_ON:
    raise ValueError(
      f"temperature_on={temperature_on!r}: must be one of "
      f"{', '.join(TEMPERATURE_ON)}"
    )
  log_p = jax.nn.log_softmax(first / temperature)
  softened = second / temperature if temperature_on == "both" else second
  log_q = jax.nn.log_softmax(softened)
  divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return temperature**2 * jnp.mean(divergence)
