import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from quped_jax import models


def _flatten(tree: Any) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize(
  "name, expected_count, quantized",
  [
    ("resnet8", 75_290, 6),
    # He et al., 2016, table 6: 0.27M and 0.46M.
    ("resnet20", 269_722, 18),
    ("resnet32", 464_154, 30),
  ],
)
def test_sizes(name, expected_count, quantized):
  model = models.create_model(name, 10, image_channels=3)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  params, stats = jax.eval_shape(model.init, jax.random.key(0), images)
  flat = _flatten(params)
  assert sum(math.prod(leaf.shape) for leaf in flat.values()) == expected_count
  kernels = [flat[path] for path in filter(model.is_quantized, flat)]
  assert len(kernels) == quantized
  assert all(kernel.shape[:2] == (3, 3) for kernel in kernels)
  # A mean and a variance for every normalisation: one more than the kernels.
  assert len(jax.tree.leaves(stats)) == 2 * (quantized + 1)


@pytest.fixture(scope="module")
def resnet8():
  model = models.create_model("resnet8", 5)
  images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)
  return model, images, *model.init(jax.random.key(0), images)


def test_statistics_move_in_training_only(resnet8):
  model, images, params, stats = resnet8
  apply = jax.jit(model.apply, static_argnums=3)
  logits, in_eval = apply(params, stats, images, False)
  chex.assert_shape(logits, (4, 5))
  jax.tree.map(np.testing.assert_array_equal, in_eval, stats)
  _, in_train = apply(params, stats, images, True)
  before = _flatten(stats)
  for path, leaf in _flatten(in_train).items():
    assert leaf.shape == before[path].shape
    assert not np.array_equal(leaf, before[path]), path


def test_statistics_have_momentum(resnet8):
  model, images, params, stats = resnet8
  apply = jax.jit(model.apply, static_argnums=3)
  _, once = apply(params, stats, images, True)
  _, twice = apply(params, once, images, True)
  # From 0, the running mean is 0.1 and then 0.19 of the batch's.
  first = once["first_norm"]["mean"]
  np.testing.assert_allclose(
    twice["first_norm"]["mean"], 1.9 * first, rtol=1e-4, atol=1e-6
  )


def test_shortcuts_carry_the_input_where_the_residual_is_zero(resnet8):
  model, images, params, stats = resnet8
  flat = _flatten(params)
  flat = {
    path: jnp.zeros_like(leaf) if model.is_quantized(path) else leaf
    for path, leaf in flat.items()
  }
  # Only the layers `first` and `last` are left, and the shortcuts.
  logits, _ = jax.jit(model.apply, static_argnums=3)(
    traverse_util.unflatten_dict(flat, sep="/"), stats, images, False
  )
  hidden = jax.lax.conv_general_dilated(
    images,
    flat["first/kernel"],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  hidden = jax.nn.relu(hidden / np.sqrt(1 + 1e-5))
  pooled = hidden[:, ::4, ::4].mean(axis=(1, 2))
  expected = pooled @ flat["last/kernel"][:16] + flat["last/bias"][None]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_values_do_not_depend_on_the_convolution(resnet8):
  model, images, params, stats = resnet8
  native = models.create_model("resnet8", 5, conv="native")
  actual, _ = jax.jit(model.apply, static_argnums=3)(
    params, stats, images, False
  )
  expected, _ = jax.jit(native.apply, static_argnums=3)(
    params, stats, images, False
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_clients_can_be_mapped(resnet8):
  model, images, params, stats = resnet8

  @jax.jit
  def apply(params, stats, images):
    return model.apply(params, stats, images, False)[0]

  # Three clients with kernels of their own.
  stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), params)
  logits = jax.jit(jax.vmap(apply, in_axes=(0, None, None)))(
    stacked, stats, images
  )
  for client in range(3):
    own = jax.tree.map(lambda p, client=client: p[client], stacked)
    np.testing.assert_allclose(
      logits[client], apply(own, stats, images), rtol=1e-3, atol=1e-3
    )
