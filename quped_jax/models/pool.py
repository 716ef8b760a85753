"""Pooling that keeps one byte per window for its gradient."""

import functools

import jax
import jax.numpy as jnp


def max_pool_2x2(inputs: jax.Array) -> jax.Array:
  """Takes the maximum over windows of 2x2.

  An odd last row or column is dropped. Of equal maxima in a window, the first
  gets the gradient, as in `flax.linen.max_pool`. For the backward pass one
  byte per window is kept: which entry was the largest. Reverse mode only.

  Args:
    inputs: `[..., height, width, channels]`, height and width at least 2.

  Returns:
    `[..., height // 2, width // 2, channels]`.

  Raises:
    ValueError: if height or width is less than 2.
  """
  height, width = inputs.shape[-3:-1]
  if min(height, width) < 2:
    raise ValueError(
      "model: must be one for smaller images; max_pool_2x2 takes those of "
      f"2 x 2 at least, and got {height} x {width}"
    )
  return _pool(inputs[..., : height // 2 * 2, : width // 2 * 2, :])


def _quarters(inputs: jax.Array) -> list[jax.Array]:
  """The four entries of every window, row by row."""
  *batch, height, width, channels = inputs.shape
  windows = inputs.reshape(*batch, height // 2, 2, width // 2, 2, channels)
  return [windows[..., i, :, j, :] for i in range(2) for j in range(2)]


@jax.custom_vjp
def _pool(inputs: jax.Array) -> jax.Array:
  return functools.reduce(jnp.maximum, _quarters(inputs))


def _pool_forward(inputs):
  quarters = _quarters(inputs)
  largest = quarters[0]
  which = jnp.zeros(largest.shape, jnp.uint8)
  for number, entry in enumerate(quarters[1:], 1):
    which = jnp.where(entry > largest, jnp.uint8(number), which)
    largest = jnp.maximum(entry, largest)
  return largest, which


def _pool_backward(which, cotangent):
  *batch, height, width, channels = cotangent.shape
  axes = (*(1 for _ in batch), 1, 2, 1, 2, 1)
  number = jnp.arange(4, dtype=jnp.uint8).reshape(axes)
  chosen = which[..., :, None, :, None, :] == number
  spread = jnp.where(chosen, cotangent[..., :, None, :, None, :], 0)
  return (spread.reshape(*batch, 2 * height, 2 * width, channels),)


_pool.defvjp(_pool_forward, _pool_backward)
