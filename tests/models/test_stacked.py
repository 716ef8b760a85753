"""Networks whose features go through another network."""

import jax
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import models
from quped_jax.models.base import Stacked


def test_a_stack_is_features_and_then_the_network():
  front = qj.create_model("mlp", 4, features=(8, 5))
  back = models.NamedNetwork("mlp", 3, (("features", (7,)),))
  whole = models.stack(front, back)
  x = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
  params, stats = whole.init(jax.random.key(0), x)
  logits, _ = whole.apply(params, stats, x, False)
  for part, layers in (
    ("client", ("first", "hidden_1")),
    ("server", ("first", "last")),
  ):
    for name in layers:
      layer = params[part][name]
      x = x @ layer["kernel"] + layer["bias"]
      x = x if name == "last" else np.maximum(x, 0)
  np.testing.assert_allclose(logits, x, atol=1e-5)
  assert whole.is_quantized("client/hidden_1/kernel")
  assert not whole.is_quantized("server/hidden_1/kernel")
  assert whole.name == "mlp+mlp" and whole.activations == ("relu",)
  assert whole.stacked == Stacked(front, back)
  hash(whole)  # As jit takes it.


def test_networks_that_cannot_be_stacked_are_errors():
  front = qj.create_model("mlp", 4)
  back = models.NamedNetwork("mlp", 4)
  with pytest.raises(ValueError, match="model='mlp': must have `features`"):
    models.stack(front._replace(features=None), back)
  with pytest.raises(ValueError, match="model='lenet': must be one of"):
    models.stack(front, back._replace(name="lenet"))
