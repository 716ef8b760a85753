"""Losses on labels: of classes, of values, and of several labels at once.

All take outputs `[batch, width]` and targets, and return a scalar, the mean
over the batch. Methods call the one that is chosen as `Training.loss`.

References:
  Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, Rethinking the Inception
  Architecture for Computer Vision, 2016 (label smoothing).
  Lin, Goyal, Girshick, He, Dollar, Focal Loss for Dense Object Detection, 2017.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks
from quped_jax.methods.blocks import distill
from quped_jax.quantization.codebook import is_traced

# {loss: the kind of targets that it is for}, see `quped_jax.data.targets`.
TARGETS = {
  "cross_entropy": "classes",
  "focal": "classes",
  "squared_error": "values",
  "binary": "multi_label",
}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross entropy to labels.

  Args:
    logits: `[batch, classes]`.
    labels: int `[batch]`; one that is no class makes the loss NaN.
  """
  # A lookup of each sample's logit would be a gather and, for the gradient, a
  # scatter: two kernels more on an accelerator, where comparisons are fused.
  chosen = labels[:, None] == jnp.arange(logits.shape[-1])[None]
  largest = jnp.max(logits, axis=-1, keepdims=True)
  logits = logits - jax.lax.stop_gradient(largest)
  own = jnp.sum(logits, axis=-1, where=chosen)
  own = jnp.where(jnp.any(chosen, axis=-1), own, jnp.nan)
  return jnp.mean(jnp.log(jnp.sum(jnp.exp(logits), axis=-1)) - own)


def smoothed_cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float
) -> jax.Array:
  r"""Mean cross entropy to labels that are mixed with the uniform distribution.

  .. math:: \frac1B \sum_b \Big[ -(1 - s) \log p_b(y_b)
    - \frac{s}{K} \sum_k \log p_b(k) \Big]

  Args:
    logits: `[batch, classes]`.
    labels: int `[batch]`; one that is no class makes the loss NaN.
    smoothing: s, from 0, which is cross entropy, to 1.
  """
  uniform = -jnp.mean(jax.nn.log_softmax(logits))
  return (1 - smoothing) * cross_entropy(logits, labels) + smoothing * uniform


def focal_loss(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
  r"""Cross entropy in which samples that are classified well count less.

  .. math:: -\frac1B \sum_b (1 - p_b(y_b))^\gamma \log p_b(y_b)

  Left out: the weights of classes.

  Args:
    logits: `[batch, classes]`.
    labels: int `[batch]`; one that is no class makes the loss NaN.
    gamma: at least 0, which is cross entropy.
  """
  chosen = labels[:, None] == jnp.arange(logits.shape[-1])[None]
  log_p = jax.nn.log_softmax(logits)
  own = jnp.sum(log_p, axis=-1, where=chosen)
  own = jnp.where(jnp.any(chosen, axis=-1), own, jnp.nan)
  # 1 - p, without the difference. A power of 0 has no derivative.
  others = jnp.sum(jnp.exp(log_p), axis=-1, where=~chosen)
  others = jnp.maximum(others, jnp.finfo(others.dtype).tiny)
  return -jnp.mean(others**gamma * own)


def squared_error(outputs: jax.Array, values: jax.Array) -> jax.Array:
  """Mean over batch and width of (output - value)^2, without a factor 1/2.

  Args:
    outputs: `[batch, width]`.
    values: float `[batch, width]`.
  """
  return jnp.mean(jnp.square(outputs - values))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean over batch and labels of the cross entropy of having a label or not.

  Args:
    logits: `[batch, labels]`; positive where a sample is to have the label.
    labels: bool `[batch, labels]`.
  """
  labels = labels.astype(logits.dtype)
  return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


class Losses(NamedTuple):
  """What clients minimise; see the fields of these names of `Training`."""

  loss: Callable[[jax.Array, jax.Array], jax.Array]
  divergence: Callable[..., jax.Array]
  classes: bool
  smoothed: bool


def of_targets(kind: str) -> list[str]:
  """The losses that are for targets of a kind."""
  return [name for name, its in TARGETS.items() if its == kind]


def make_losses(
  name: str,
  *,
  label_smoothing: float = 0.0,
  focal_gamma: float = 2.0,
  own: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Losses:
  """A loss by name, with the divergence that goes with it in distillation.

  Args:
    name: one of `TARGETS`.
    label_smoothing: of "cross_entropy", see there; it may be traced.
    focal_gamma: of "focal", likewise.
    own: in place of the loss of that name, a user's `(outputs, targets) ->
      scalar` for the same targets; None for that.
  """
  checks.choice("loss", name, TARGETS)
  smoothed = is_traced(label_smoothing) or bool(label_smoothing)
  if own is not None:
    loss = own
  elif name == "focal":
    loss = functools.partial(focal_loss, gamma=focal_gamma)
  elif name == "squared_error":
    loss = squared_error
  elif name == "binary":
    loss = binary_cross_entropy
  elif smoothed:
    loss = functools.partial(smoothed_cross_entropy, smoothing=label_smoothing)
  else:
    loss = cross_entropy
  classes = TARGETS[name] == "classes"
  divergence = distill.kl_divergence if classes else distill.squared_difference
  return Losses(loss, divergence, classes, smoothed)
