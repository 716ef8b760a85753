from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from quped_jax import models


@pytest.mark.parametrize(
  "features, quantized",
  [
    ((), []),
    ((8,), []),
    ((64, 64), ["hidden_1/kernel"]),
    ((8, 4, 6), ["hidden_1/kernel", "hidden_2/kernel"]),
  ],
)
def test_layers(features, quantized):
  model = models.create_model("mlp", 10, features=features)
  inputs = jnp.ones((2, 8, 8, 1))
  params, stats = model.init(jax.random.key(0), inputs)
  paths: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  assert sorted(filter(model.is_quantized, paths)) == quantized
  assert stats == {}
  widths = [64, *features, 10]
  kernels = [s for p, s in paths.items() if p.endswith("kernel")]
  assert sorted(k.shape for k in kernels) == sorted(
    zip(widths[:-1], widths[1:], strict=True)
  )


def test_values():
  model = models.create_model("mlp", 3, features=(5, 4))
  inputs = np.random.default_rng(1).normal(size=(2, 3, 2)).astype(np.float32)
  params, stats = model.init(jax.random.key(0), inputs)
  hidden = inputs.reshape(2, 6)
  for name in ("first", "hidden_1"):
    layer = params[name]
    hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"][None], 0)
  expected = hidden @ params["last"]["kernel"] + params["last"]["bias"][None]
  logits, _ = model.apply(params, stats, inputs, True)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_dtype():
  inputs = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
  half = models.create_model("mlp", 3, dtype=jnp.bfloat16)
  full = models.create_model("mlp", 3)
  params, stats = half.init(jax.random.key(0), inputs)
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  logits, _ = half.apply(params, stats, inputs, False)
  expected, _ = full.apply(params, stats, inputs, False)
  assert logits.dtype == expected.dtype == jnp.float32
  np.testing.assert_allclose(logits, expected, atol=0.05)
  assert not np.array_equal(logits, expected)


def test_computes_in_double_precision_on_double_parameters():
  with jax.enable_x64(True):
    model = models.create_model("mlp", 3)
    inputs = jnp.ones((2, 6), jnp.float64)
    params, stats = model.init(jax.random.key(0), inputs)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    logits, _ = model.apply(params, stats, inputs, False)
    assert logits.dtype == jnp.float64
