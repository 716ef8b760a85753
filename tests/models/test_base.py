import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax import models


@pytest.mark.parametrize(
  "path, expected",
  [
    ("hidden_1/kernel", True),
    ("stage_1_block_1/conv_1/kernel", True),
    ("first_block/kernel", True),
    ("kernel", True),
    ("first/kernel", False),
    ("last/kernel", False),
    ("body/last/kernel", False),
    ("hidden_1/bias", False),
    ("norm_1/scale", False),
    ("kernel/bias", False),
  ],
)
def test_hidden_kernels(path, expected):
  assert models.hidden_kernels(path) is expected


def test_the_head_is_known_by_its_path():
  assert qj.models.is_head("last/kernel") and qj.models.is_head("last/bias")
  assert not qj.models.is_head("first/last")


NETWORKS = {
  "mlp": {"features": (5, 4)},
  "cnn1": {"conv_features": (2, 3), "dense_features": (4,)},
  "cnn2": {"conv_features": (2, 3, 3), "dense_features": (4,)},
  "resnet8": {},
  "resnet20": {},
  "resnet32": {},
  "transformer": {"width": 8, "heads": 2},
}


def test_every_built_in_network_is_listed_here():
  assert set(NETWORKS) == {
    n for n in qj.models.model_names() if qj.models.is_built_in(n)
  }


def samples(name):
  if name == "transformer":
    return np.random.default_rng(0).integers(0, 3, (2, 6))
  draw = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
  return draw.astype(np.float32)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(n, marks=pytest.mark.slow) if n.endswith(("20", "32")) else n
    for n in NETWORKS
  ],
)
def test_a_network_is_the_composition_of_its_blocks(name):
  model = qj.models.create_model(name, 3, **NETWORKS[name])
  inputs = jnp.asarray(samples(name))
  params, stats = model.init(jax.random.key(0), inputs)
  blocks, head = model.blocks, model.head
  assert blocks and head
  for train in (False, True):
    expected, moved = jax.jit(model.apply, static_argnums=3)(
      params, stats, inputs, train
    )

    def through(params, stats, inputs, train):
      outputs, new, features = inputs, stats, inputs
      for block in blocks:
        features = outputs
        outputs, after = block.apply(params, stats, outputs, train)
        # Of the statistics a block moves its own alone.
        new = {k: after[k] if block.owns(k) else new[k] for k in new}
      return outputs, new, features

    found, new, features = jax.jit(through, static_argnums=3)(
      params, stats, inputs, train
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(new, moved, rtol=1e-5)
    logits = head(params, features)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_one_block(name):
  model = qj.models.create_model(name, 3, **NETWORKS[name])
  inputs = jnp.asarray(samples(name))
  params, stats = jax.eval_shape(model.init, jax.random.key(0), inputs)
  assert model.blocks and model.blocks[-1].layers == ("last",)
  for layer in {**params, **stats}:
    assert sum(block.owns(f"{layer}/kernel") for block in model.blocks) == 1
  assert len({block.name for block in model.blocks}) == len(model.blocks)
  owned = [layer for block in model.blocks for layer in block.layers]
  assert set(owned) == set(params)


def test_a_module_of_ones_own_may_name_its_blocks():
  class Mine(nn.Module):
    @property
    def block_layers(self):
      return {"body": ("first", "norm"), "last": ("last",)}

    @nn.compact
    def __call__(self, inputs, train, only=None):
      if only is None or "body" in only:
        inputs = nn.Dense(4, name="first")(inputs)
        inputs = nn.Dropout(0.5, deterministic=not train)(inputs)
        norm = nn.BatchNorm(use_running_average=not train, name="norm")
        inputs = norm(inputs)
      if only is None or "last" in only:
        inputs = nn.Dense(3, name="last")(inputs)
      return inputs

  model = qj.models.settle(
    qj.from_linen(Mine(), "mine"), 3, jax.ShapeDtypeStruct((2, 5), jnp.float32)
  )
  assert model.random and model.blocks
  inputs = jnp.arange(20.0).reshape(4, 5)
  params, stats = model.init(jax.random.key(0), inputs)
  key = jax.random.key(1)
  expected, _ = model.apply(params, stats, inputs, True, key)
  body, last = model.blocks
  outputs, moved = body.apply(params, stats, inputs, True, key)
  outputs, _ = last.apply(params, stats, outputs, True, key)
  # The same units are dropped, whether it runs in one piece or in two.
  np.testing.assert_allclose(outputs, expected, rtol=1e-6)
  assert not np.array_equal(moved["norm"]["mean"], stats["norm"]["mean"])


def test_wrong_blocks_are_named():
  model = qj.models.create_model("mlp", 3, features=(4, 4))
  assert model.blocks
  shape = jax.ShapeDtypeStruct((2, 5), jnp.float32)

  def settle(blocks):
    given = model._replace(blocks=blocks)
    qj.models.check_type(given)
    return qj.models.settle(given, 3, shape)

  first, hidden, last = model.blocks
  settle((first, hidden, last))
  wrong = {
    "must be a tuple of qj.models.Block": [first, hidden, last],
    "'hidden_1/bias' is in none": (first, last),
    "'last/bias' is in .'x', 'last'.": (
      first._replace(name="x", layers=("first", "last")),
      hidden,
      last,
    ),
    "its blocks fails with": (first, last, hidden),
  }
  for message, blocks in wrong.items():
    with pytest.raises(ValueError, match=message):
      settle(blocks)
