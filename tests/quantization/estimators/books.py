"""A codebook, and weights around its levels."""

import jax.numpy as jnp
import numpy as np

from quped_jax.quantization.codebook import Codebook

LEVELS = np.array([-1.0, -0.2, 0.4, 1.5])
BOOK = Codebook(jnp.float32([*LEVELS, 1.5, 1.5]), jnp.int32(4))
U = jnp.linspace(-2.0, 2.0, 161) + 1e-3


def nearest(u):
  """The nearest level of each weight."""
  u = np.asarray(u)
  return LEVELS[np.argmin(np.abs(u[..., None] - LEVELS), axis=-1)]
