"""Augmentation of training batches, inside jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from quped_jax import checks

_PADDING = 4


def crop_flip(key: jax.Array, images: jax.Array) -> jax.Array:
  """Pads images by four, crops at random to the old size, and flips half.

  Args:
    key: a random key.
    images: `[batch, height, width, channels]`, normalised: the border is
      filled with zeros, the mean colour.

  Returns:
    Images of the same shape.

  References:
    He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2016.
  """
  batch, height, width, _ = images.shape
  crop_key, flip_key = jax.random.split(key)
  offsets = jax.random.randint(crop_key, (batch, 2), 0, 2 * _PADDING + 1)
  flips = jax.random.bernoulli(flip_key, shape=(batch,))
  border = (_PADDING, _PADDING)
  padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
  # Rows and columns are looked up, since slices at an offset per image are a
  # slow gather, on accelerators too.
  rows = offsets[:, :1] + jnp.arange(height)[None]
  columns = offsets[:, 1:] + jnp.arange(width)[None]
  columns = jnp.where(flips[:, None], columns[:, ::-1], columns)
  image = jnp.arange(batch)[:, None, None]
  return padded[image, rows[:, :, None], columns[:, None, :]]


AUGMENTATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "none": lambda key, images: images,
  "crop_flip": crop_flip,
}


def check_augment(name: str, shape: tuple[int, ...]) -> None:
  """Raises a ValueError unless the augmentation exists and fits the inputs."""
  checks.choice("augment", name, AUGMENTATIONS)
  if name == "crop_flip" and len(shape) != 3:
    raise ValueError(
      f"augment={name!r}: must be 'none' for inputs of shape {shape}; it "
      "takes images [height, width, channels]"
    )
