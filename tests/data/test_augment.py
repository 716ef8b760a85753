import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quped_jax.data import augment

SHAPE = (5, 6, 2)


@pytest.fixture(scope="module")
def pair():
  """Images without equal pixels, and their augmented copies."""
  images = 1 + np.arange(60 * np.prod(SHAPE), dtype=np.float32)
  images = images.reshape(60, *SHAPE)
  return images, np.asarray(
    augment.crop_flip(jax.random.key(0), jnp.asarray(images))
  )


def crops(image):
  """All crops of a padded image and their mirror images: {bytes: name}."""
  height, width, _ = image.shape
  padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
  found = {}
  for top, left in itertools.product(range(9), range(9)):
    crop = padded[top : top + height, left : left + width]
    found.setdefault(crop.tobytes(), (top, left, False))
    found.setdefault(crop[:, ::-1].tobytes(), (top, left, True))
  return found


def test_every_image_becomes_a_crop_of_itself_padded_or_its_mirror(pair):
  for image, result in zip(*pair, strict=True):
    assert result.shape == SHAPE
    assert result.tobytes() in crops(image)


def test_every_offset_and_both_orientations_occur(pair):
  names = [crops(i)[r.tobytes()] for i, r in zip(*pair, strict=True)]
  tops, lefts, flips = zip(*names, strict=True)
  assert {min(tops), max(tops), min(lefts), max(lefts)} == {0, 8}
  # 60 fair coins: standard deviation 3.9.
  assert 12 < sum(flips) < 48
  assert len(set(names)) > 40


def test_the_key_decides():
  images = jnp.ones((4, 1, 1, 1)) * jnp.arange(36).reshape(1, 6, 6, 1)
  one, again, other = (
    augment.crop_flip(jax.random.key(seed), images) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, again)
  assert not np.array_equal(one, other)


def test_none_leaves_images_as_they_are():
  images = jnp.ones((4, 6, 6, 1))
  assert augment.AUGMENTATIONS["none"](jax.random.key(0), images) is images


def test_inputs_that_are_no_images_are_an_error():
  augment.check_augment("crop_flip", (8, 8, 3))
  augment.check_augment("none", (64,))
  with pytest.raises(ValueError, match=r"augment='crop_flip'.*\(64,\)"):
    augment.check_augment("crop_flip", (64,))
  with pytest.raises(ValueError, match="augment='rotate'.*none, crop_flip"):
    augment.check_augment("rotate", (8, 8, 3))


@pytest.mark.parametrize(
  "shape", [(3, 32, 32), (1, 28, 28), (3, 224, 192), (4, 64, 64), (3, 5, 6)]
)
def test_channels_that_seem_to_come_first_are_warned_of(shape):
  with pytest.warns(UserWarning, match=r"channels\. .*transpose\(0, 2, 3, 1\)"):
    augment.warn_of_channels_first(shape)
  with pytest.warns(UserWarning, match="channels"):
    augment.check_augment("crop_flip", shape)


@pytest.mark.parametrize(
  "shape",
  [
    (32, 32, 3),
    (28, 28, 1),
    (8, 8, 1),
    (1, 128, 64),
    (3, 3, 3),
    (3, 3),
  ],
)
def test_images_with_channels_last_are_not(shape):
  augment.warn_of_channels_first(shape)
