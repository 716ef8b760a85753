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


@pytest.mark.slow
def test_values_and_gradients_do_not_depend_on_the_convolution():
  images = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
  small = {"conv_features": (3, 4, 4), "dense_features": (6,)}
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
