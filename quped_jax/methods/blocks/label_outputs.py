"""Softmax outputs summed by label, and learning from their means."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Outputs(NamedTuple):
  """Softmax outputs, summed by label.

  Attributes:
    sums: float `[classes, classes]`, indexed by label, then output.
    counts: float `[classes]`, the number of samples of each label.
  """

  sums: jax.Array
  counts: jax.Array


def collect(logits: jax.Array, labels: jax.Array) -> Outputs:
  """The outputs of a batch, given its logits `[batch, classes]` and labels."""
  probabilities = jax.nn.softmax(logits)
  chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  sums = jnp.matmul(chosen.T, probabilities, precision="highest")
  return Outputs(sums, jnp.sum(chosen, axis=0))


def taught_loss(
  logits: jax.Array, labels: jax.Array, outputs: Outputs
) -> jax.Array:
  """Mean cross entropy to the mean output for each sample's label.

  Args:
    logits: `[batch, classes]`.
    labels: int `[batch]`.
    outputs: the teaching outputs; a sample whose label has none contributes
      zero.
  """
  held = outputs.counts > 0
  means = outputs.sums / jnp.where(held, outputs.counts, 1)[:, None]
  chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  targets = jnp.matmul(chosen, means, precision="highest")
  losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
  return jnp.mean(jnp.where(chosen @ held.astype(chosen.dtype) > 0, losses, 0))
