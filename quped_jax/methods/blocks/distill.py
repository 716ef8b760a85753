"""Divergences of distillation: how far a student is from its teacher.

All take outputs `[batch, classes]` and return a scalar, the mean over the
batch. They depend on their arguments alone, so any method can use them. Which
one goes with the loss on labels is `Training.divergence`.

References:
  Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015.
  Lee, Jeong, Shin, Bae, Yun, Preservation of the Global Knowledge by
  Not-True Distillation in Federated Learning, 2022.
"""

import jax
import jax.numpy as jnp

from quped_jax import checks

TEMPERATURE_ON = ("both", "teacher")


def kl_divergence(
  first: jax.Array,
  second: jax.Array,
  temperature: float = 1.0,
  *,
  temperature_on: str = "both",
) -> jax.Array:
  r"""Softened divergence between two sets of logits.

  .. math::
    T^2 \, \frac1B \sum_b
      \mathrm{KL}(\mathrm{softmax}(u_b / T) \,\|\, \mathrm{softmax}(v_b / T))

  Differentiable in both arguments: a student that learns from u takes the
  gradient in v, a global model that learns from v takes it in u.

  Args:
    first: u, logits `[batch, classes]`; the teacher, in distillation.
    second: v, logits `[batch, classes]`.
    temperature: T, positive.
    temperature_on: "both", or "teacher" to divide only u by T.

  Raises:
    ValueError: unknown temperature_on.
  """
  checks.choice("temperature_on", temperature_on, TEMPERATURE_ON)
  log_p = jax.nn.log_softmax(first / temperature)
  softened = second / temperature if temperature_on == "both" else second
  log_q = jax.nn.log_softmax(softened)
  divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return temperature**2 * jnp.mean(divergence)


def squared_difference(
  first: jax.Array,
  second: jax.Array,
  temperature: float = 1.0,
  *,
  temperature_on: str = "both",
) -> jax.Array:
  r"""Divergence of outputs that are no logits of classes, from each other.

  .. math:: \frac{1}{B W} \sum_{b, k} (u_{bk} - v_{bk})^2

  What `kl_divergence` is to cross entropy, this is to the squared error, and to
  losses on several labels at once. Differentiable in both arguments.

  Args:
    first: u, outputs `[batch, width]`; the teacher, in distillation.
    second: v, outputs `[batch, width]`.
    temperature: has no meaning here, and is not used.
    temperature_on: likewise.
  """
  del temperature, temperature_on
  return jnp.mean(jnp.square(first - second))


def not_true_divergence(
  first: jax.Array,
  second: jax.Array,
  labels: jax.Array,
  temperature: float = 1.0,
) -> jax.Array:
  r"""Softened divergence between two sets of logits, over wrong classes only.

  .. math::
    T^2 \, \frac1B \sum_b \mathrm{KL}(\tilde p_b \,\|\, \tilde q_b), \quad
    \tilde p_{bk} = \frac{\exp(u_{bk} / T)}
      {\sum_{j \ne y_b} \exp(u_{bj} / T)}, \; k \ne y_b

  and likewise q from v: both are renormalised without the true class y, whose
  logit therefore gets no gradient.

  Args:
    first: u, logits `[batch, classes]`; the teacher, in distillation.
    second: v, logits `[batch, classes]`.
    labels: y, int `[batch]`.
    temperature: T, positive.
  """
  wrong = jnp.arange(first.shape[-1])[None] != labels[:, None]

  def log_shares(logits):
    softened = jnp.where(wrong, logits / temperature, -jnp.inf)
    # No infinities: their difference would be NaN.
    return jnp.where(wrong, jax.nn.log_softmax(softened), 0.0)

  log_p, log_q = log_shares(first), log_shares(second)
  divergence = jnp.sum(
    jnp.where(wrong, jnp.exp(log_p) * (log_p - log_q), 0.0), axis=-1
  )
  return temperature**2 * jnp.mean(divergence)
