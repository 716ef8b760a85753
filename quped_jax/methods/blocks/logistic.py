"""Logistic regression of two classes, solved inside jit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Keeps the system solvable where all probabilities are certain. It changes the
# steps, not where they end.
_RIDGE = 1e-6
# Lengths of a step that are tried; the best is taken.
_HALVINGS = 8


class Fit(NamedTuple):
  """A logistic regression.

  Attributes:
    weights: `[width]`.
    intercept: `[]`.
  """

  weights: jax.Array
  intercept: jax.Array

  def probability(self, features: jax.Array) -> jax.Array:
    """That of the first class, `[samples]`, of features `[samples, width]`."""
    logits = jnp.matmul(features, self.weights, precision="highest")
    return jax.nn.sigmoid(logits + self.intercept)


def fit(
  features: jax.Array,
  first: jax.Array,
  counts: jax.Array,
  penalty: jax.Array | float,
  *,
  steps: int = 20,
) -> Fit:
  r"""Fits a logistic regression by Newton's method.

  .. math::
    \min_{a, b} \; \frac1n \sum_{i=1}^n \log\big(1 + \exp(-s_i (a^\top z_i +
      b))\big) + \frac{\lambda}{2} |a|^2

  with s_i = 1 for the first class and -1 for the second. It is scikit-learn's
  with C = 1 / (n lambda). Of every step the best of some lengths is taken, so
  that the loss never rises.

  Args:
    features: z, `[samples, width]`.
    first: bool `[samples]`, which of them are of the first class.
    counts: bool `[samples]`, which of them count, n in all.
    penalty: lambda, positive.
    steps: how many steps, static; about ten are enough.
  """
  ones = jnp.ones((features.shape[0], 1), features.dtype)
  inputs = jnp.concatenate([features, ones], axis=1)
  signs = jnp.where(first, 1.0, -1.0).astype(features.dtype)
  share = counts.astype(features.dtype)
  share /= jnp.maximum(jnp.sum(share), 1)
  # The intercept has no penalty.
  penalties = jnp.full(inputs.shape[1], penalty).at[-1].set(0.0)

  def loss(logits, point):
    return jnp.sum(share * jax.nn.softplus(-signs * logits)) + jnp.sum(
      penalties * jnp.square(point) / 2
    )

  def dot(a, b):
    return jnp.matmul(a, b, precision="highest")

  def step(_, point):
    logits = dot(inputs, point)
    slopes = -share * signs * jax.nn.sigmoid(-signs * logits)
    gradient = dot(slopes, inputs) + penalties * point
    curvatures = share * jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)
    hessian = dot(inputs.T * curvatures[None], inputs)
    hessian += jnp.diag(penalties + _RIDGE)
    # Not `jnp.linalg.solve`: in a program over several devices of a CPU, LAPACK
    # would wait for threads that wait for the other devices.
    direction, _ = jax.scipy.sparse.linalg.cg(
      lambda v: dot(hessian, v), -gradient, maxiter=2 * gradient.size
    )
    moved = dot(inputs, direction)
    lengths = 0.5 ** jnp.arange(_HALVINGS, dtype=features.dtype)
    lengths = jnp.append(lengths, 0.0)
    losses = jax.vmap(
      lambda t: loss(logits + t * moved, point + t * direction)
    )(lengths)
    return point + lengths[jnp.argmin(losses)] * direction

  start = jnp.zeros(inputs.shape[1], features.dtype)
  point = jax.lax.fori_loop(0, steps, step, start)
  return Fit(point[:-1], point[-1])
