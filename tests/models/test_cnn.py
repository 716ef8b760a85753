import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from quped_jax import models


def _shapes(model, size, channels):
  """Returns the shapes of parameters by path, without computing them."""
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  params, stats = jax.eval_shape(model.init, jax.random.key(0), images)
  assert stats == {}
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  return {path: leaf.shape for path, leaf in flat.items()}


@pytest.mark.parametrize(
  "name, size, channels, expected_count, quantized",
  [
    # 1,663,370 is the count that McMahan et al., 2017, state.
    ("cnn1", 28, 1, 1_663_370, ["hidden_1", "hidden_2"]),
    ("cnn1", 32, 3, 1_756_426, ["hidden_1", "hidden_2", "hidden_3"]),
    (
      "cnn2",
      28,
      1,
      1_663_370 + 2 * (5 * 5 * 64 * 64 + 64),
      ["hidden_1", "hidden_2", "hidden_3", "hidden_4"],
    ),
    (
      "cnn2",
      32,
      3,
      1_756_426 + 2 * (5 * 5 * 64 * 64 + 64),
      ["hidden_1", "hidden_2", "hidden_3", "hidden_4", "hidden_5"],
    ),
  ],
)
def test_presets(name, size, channels, expected_count, quantized):
  model = models.create_model(name, 10, image_channels=channels)
  shapes = _shapes(model, size, channels)
  assert sum(map(math.prod, shapes.values())) == expected_count
  assert sorted(filter(model.is_quantized, shapes)) == [
    f"{layer}/kernel" for layer in quantized
  ]


def test_widths_can_be_chosen():
  model = models.create_model(
    "cnn2", 7, image_channels=3, conv_features=(4, 5), dense_features=(6,)
  )
  shapes = _shapes(model, 8, 3)
  assert {p: s for p, s in shapes.items() if p.endswith("kernel")} == {
    "first/kernel": (5, 5, 3, 4),
    "hidden_1/kernel": (5, 5, 4, 5),
    "hidden_2/kernel": (2 * 2 * 5, 6),
    "last/kernel": (6, 7),
  }


def test_without_padding_and_with_its_widths_it_is_lenet_5():
  model = models.create_model(
    "cnn1",
    10,
    padding="valid",
    **models.width_options("cnn1", (6, 16, 120, 84)),
  )
  shapes = _shapes(model, 28, 1)
  assert shapes["hidden_2/kernel"] == (4 * 4 * 16, 120)
  assert sum(map(math.prod, shapes.values())) == 44_426


def test_without_padding_a_convolution_sees_whole_windows_alone():
  image = np.random.default_rng(0).normal(size=(1, 16, 16, 1))
  model = models.create_model(
    "cnn1", 2, conv_features=(1, 1), dense_features=(), padding="valid"
  )
  params, stats = model.init(jax.random.key(3), image)
  # Of 16 x 16, 12 x 12 windows, of these 6 x 6 maxima, 2 x 2 windows, and 1.
  expected = image[0, :, :, 0]
  for name in ("first", "hidden_1"):
    kernel, bias = (np.asarray(params[name][x]) for x in ("kernel", "bias"))
    size = len(expected) - 4
    found = [
      np.sum(expected[i : i + 5, j : j + 5] * kernel[:, :, 0, 0]) + bias[0]
      for i in range(size)
      for j in range(size)
    ]
    windows = np.reshape(found, (size // 2, 2, size // 2, 2))
    expected = np.maximum(windows.max(axis=(1, 3)), 0)
  last = params["last"]
  np.testing.assert_allclose(
    model.apply(params, stats, image, False)[0][0],
    expected[0, 0] * last["kernel"][0] + last["bias"],
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ("name", "size", "least"), [("cnn1", 15, 16), ("cnn2", 47, 48)]
)
def test_images_too_small_to_do_without_padding_are_an_error(name, size, least):
  model = models.create_model(name, 10, padding="valid")
  with pytest.raises(
    ValueError,
    match=f"padding='valid': must be 'same' for images of 50 x {size}; . convol"
    f"utions of 5 x 5 without padding take those of {least} x {least} at least",
  ):
    jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 50, size, 1)))
  _shapes(model, least, 1)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_values_and_gradients_do_not_depend_on_the_convolution(padding):
  size = {"same": 8, "valid": 24}[padding]
  rng = np.random.default_rng(1)
  images = rng.normal(size=(2, size, size, 1)).astype(np.float32)
  small: dict[str, Any] = {
    "conv_features": (3, 4, 4)[: 2 if padding == "valid" else 3],
    "dense_features": (6,),
    "padding": padding,
  }
  results = []
  for conv in ("native", "shift"):
    model = models.create_model("cnn2", 5, conv=conv, **small)
    params, stats = model.init(jax.random.key(0), images)

    @jax.jit
    def loss(params, model=model, stats=stats):
      logits, _ = model.apply(params, stats, images, True)
      chex.assert_shape(logits, (2, 5))
      return (logits**2).sum()

    results.append(jax.value_and_grad(loss)(params))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    *results,
  )


def test_inputs_must_be_images():
  model = models.create_model("cnn1", 10)
  with pytest.raises(ValueError, match=r"model: must .* \(28, 28\); .*\[hei"):
    model.init(jax.random.key(0), jnp.ones((2, 28, 28)))
