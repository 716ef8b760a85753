"""The sum over all steps of the soft quantizer, and its gradients.

"dense" adds step after step, each over all weights. "table" computes all steps
of a few points at once: one expression, however many levels there are, which
makes a short program.

Gradients are written out rather than left to autodiff, so that only the weights
are kept for them and only the gradients asked for are computed.
"""

import functools

import jax.numpy as jnp

from quped_jax.quantization import soft_bins


def one_step(x, low, high, slope):
  """The step between two neighbouring levels.

  Returns:
    gap: its height.
    share: the fraction of it that a weight has climbed, a sigmoid; by tanh,
      which XLA evaluates faster than an exponential and a division.
    bend: half the derivative of `gap * share` with respect to x, which is minus
      that with respect to either level through the position of the step.
  """
  gap = high - low
  share = 0.5 + 0.5 * jnp.tanh(slope / 2 * (x - (low + high) / 2))
  return gap, share, slope / 2 * gap * share * (1 - share)


def dense_value(x, centers, slope):
  """The sum over all steps, as in the definition.

  Args:
    x: weights, any shape.
    centers: the levels, `[max_levels]`, of the dtype of x.
    slope: P, the slope of the steps.

  Returns:
    Quantized weights, of the shape of x.
  """
  soft = jnp.broadcast_to(centers[0], x.shape)
  for low, high in zip(centers[:-1], centers[1:], strict=True):
    gap, share, _ = one_step(x, low, high, slope)
    soft += gap * share
  return soft


def dense_gradients(bins, x, cotangent, centers, slope):
  """The gradients of `dense_value`.

  Args:
    bins: how many bins the gradient of the levels takes; 0 for none.
    x: weights, any shape.
    cotangent: of the quantized weights, likewise.
    centers: the levels, `[max_levels]`, of the dtype of x.
    slope: P, the slope of the steps.

  Returns:
    (with respect to x, with respect to the centers).
  """
  derivative = jnp.zeros_like(x)
  for low, high in zip(centers[:-1], centers[1:], strict=True):
    derivative += 2 * one_step(x, low, high, slope)[2]
  to_x = cotangent * derivative
  if bins:
    x, cotangent = soft_bins.binned(bins, x, cotangent, centers, slope)
  to_level = [jnp.ones_like(x)] + [0.0] * (centers.shape[0] - 1)
  for k in range(1, centers.shape[0]):
    _, share, bend = one_step(x, centers[k - 1], centers[k], slope)
    to_level[k - 1] += -share - bend
    to_level[k] += share - bend
  terms = [cotangent * share for share in to_level]
  # Level by level: a sum that computes its own terms takes one pass.
  return to_x, jnp.stack([jnp.sum(term) for term in terms])


def _points(x, centers, slope):
  """All steps at all points: gap, share and bend, `[max_levels - 1, ...]`.

  With the points last, XLA vectorizes over them.
  """
  shape = centers.shape[0] - 1, *x.shape
  column = (-1, *(1,) * x.ndim)
  low, high = (
    jnp.broadcast_to(c.reshape(column), shape)
    for c in (centers[:-1], centers[1:])
  )
  return one_step(x[None], low, high, slope)


def _table(x, centers, slope):
  gap, share, _ = _points(x, centers, slope)
  return centers[0] + jnp.sum(gap * share, axis=0)


def _table_derivative(x, centers, slope):
  return 2 * jnp.sum(_points(x, centers, slope)[2], axis=0)


def table_value(bins, x, centers, slope):
  """`dense_value`, by a table of all steps.

  Args:
    bins: how many bins the values take; 0 for none.
    x: weights, any shape.
    centers: the levels, `[max_levels]`, of the dtype of x.
    slope: P, the slope of the steps.

  Returns:
    Quantized weights, of the shape of x.
  """
  value = functools.partial(_table, centers=centers, slope=slope)
  return soft_bins.interpolate(value, bins, x, centers, slope)


def table_gradients(bins, deterministic, x, cotangent, centers, slope):
  """The gradients of `table_value`: (to x, to the centers)."""
  derivative = functools.partial(
    _table_derivative, centers=centers, slope=slope
  )
  to_x = cotangent * soft_bins.interpolate(derivative, bins, x, centers, slope)
  if bins:
    x, cotangent = soft_bins.binned(
      bins, x, cotangent, centers, slope, deterministic=deterministic
    )
  _, share, bend = _points(x.ravel(), centers, slope)
  # A level ends the step below it and begins the one above. Below the first
  # level all has been climbed, and above the last nothing.
  share = jnp.pad(share, ((1, 0), (0, 0)), constant_values=1)
  share = jnp.pad(share, ((0, 1), (0, 0)))
  bend = jnp.pad(bend, ((1, 1), (0, 0)))
  to_level = share[:-1] - share[1:] - bend[:-1] - bend[1:]
  return to_x, jnp.sum(cotangent.ravel()[None] * to_level, axis=1)
