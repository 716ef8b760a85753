"""Augmentation of training batches, inside jit."""

import warnings
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


def warn_of_channels_first(shape: tuple[int, ...]) -> None:
  """Warns of images that seem to have their channels in the first axis.

  Args:
    shape: of one sample, which is taken for an image.
  """
  if len(shape) != 3 or shape[0] not in (1, 3, 4) or shape[2] in (1, 3, 4):
    return
  if shape[1] == shape[2] or (shape[0] == 3 and min(shape[1:]) > _PADDING):
    warnings.warn(
      f"inputs.shape=[samples, {', '.join(map(str, shape))}]: are taken for "
      f"images of {shape[0]} x {shape[1]} pixels with {shape[2]} channels. If "
      "the channels come first, inputs.transpose(0, 2, 3, 1) puts them last, "
      "where they must be",
      stacklevel=3,
    )


def check_augment(name: str, shape: tuple[int, ...]) -> None:
  """Raises a ValueError unless the augmentation exists and fits the inputs."""
  checks.choice("augment", name, AUGMENTATIONS)
  if name == "crop_flip":
    warn_of_channels_first(shape)
  if name == "crop_flip" and len(shape) != 3:
    raise ValueError(
      f"augment={name!r}: must be 'none' for inputs of shape {shape}; it "
      "takes images [height, width, channels]"
    )
