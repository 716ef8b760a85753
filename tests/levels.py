"""Codebooks and weights that the tests of quantizers share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from quped_jax.quantization.codebook import Codebook

SPACINGS = ("even", "outlier", "clusters", "geometric", "coinciding")


def make_levels(spacing, count, seed=0):
  """Sorted levels, from evenly spaced to very uneven."""
  rng = np.random.default_rng(seed)
  if spacing == "even":
    levels = np.linspace(-1.0, 1.5, count)
  elif spacing == "outlier":
    levels = np.append(np.linspace(0.0, 0.1, count - 1), 10.0)
  elif spacing == "clusters":
    levels = rng.choice([-1.0, 0.0, 2.0], count) + rng.uniform(0, 1e-2, count)
    levels[:2] = -1.0, 2.0
  elif spacing == "geometric":
    levels = 2.0 ** -rng.uniform(0, 8, count) * rng.choice([-1, 1], count)
  else:
    levels = np.round(rng.normal(size=count) * 8) / 8
    levels[:2] = -1.0, 1.0
  return np.sort(levels).astype(np.float32)


def make_codebook(levels, max_levels=None, padding=None):
  """A codebook whose padding is the last level, or some other number."""
  levels = np.asarray(levels, np.float32)
  count = len(levels)
  fill = levels[-1] if padding is None else padding
  tail = np.full((max_levels or count) - count, fill, np.float32)
  return Codebook(jnp.asarray(np.concatenate([levels, tail])), jnp.int32(count))


def make_weights(levels, count, seed=1):
  """Weights inside and outside the levels, on them, and between them."""
  rng = np.random.default_rng(seed)
  low, high = levels[0], levels[-1]
  spread = rng.uniform(
    low - (high - low) / 4, high + (high - low) / 4, count // 2
  )
  near = rng.choice(levels, count // 4) + rng.normal(size=count // 4) * (
    high - low
  ) / (4 * len(levels))
  special = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2])
  special = rng.choice(special, count - len(spread) - len(near))
  return np.concatenate([spread, near, special]).astype(np.float32)


def gap_of(levels):
  return (float(levels[-1]) - float(levels[0])) / (len(levels) - 1)


@functools.cache
def loss_and_gradients(quantize):
  """Compiled once for all that have the same shapes."""

  def loss(x, centers, levels, weights):
    return jnp.sum(weights * quantize(x, Codebook(centers, levels)))

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def many_weights(levels, size, seed=0):
  """So many weights that they are quantized and summed in bins."""
  rng = np.random.default_rng(seed)
  x = make_weights(levels, size, seed)
  return rng.permutation(x), rng.normal(size=size).astype(np.float32)
