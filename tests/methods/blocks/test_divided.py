import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quped_jax as qj
from quped_jax.experiment.training import make_training
from quped_jax.methods.blocks import divided
from tests import tiny


@pytest.fixture(scope="module")
def federation():
  return tiny.make_federation((9, 9))


def mlp(classes=tiny.CLASSES, hidden=(8, 5)):
  return qj.create_model("mlp", classes, features=hidden)


def test_features_and_classes_are_counted(federation):
  assert divided.check_divided("any", mlp(), federation) == (5, tiny.CLASSES)
  same = {"a": mlp(), "b": mlp(hidden=(5,))}
  assert divided.check_alike("any", same, federation) == (5, tiny.CLASSES)


def test_a_model_of_one_value_can_be_divided(federation):
  assert divided.check_divided("any", mlp(classes=1), federation) == (5, 1)


def test_models_that_cannot_be_divided_are_errors(federation):
  whole = mlp()._replace(features=None)
  with pytest.raises(ValueError, match="model='mlp': must have `features` and"):
    divided.check_divided("any", whole, federation)
  squeezed = mlp()._replace(head=lambda params, features: features[:, 0])
  with pytest.raises(ValueError, match=r"model='mlp': must give logits .*1,\)"):
    divided.check_divided("any", squeezed, federation)
  deep = mlp()._replace(
    features=lambda p, s, x, train: (jnp.zeros((1, 2, 5)), s)
  )
  with pytest.raises(ValueError, match=r"features \[batch, width\], not"):
    divided.check_divided("any", deep, federation)
  other = {"a": mlp(), "b": mlp(hidden=(6,))}
  with pytest.raises(ValueError, match="'b'.*must have 5 features.*got 6"):
    divided.check_alike("any", other, federation)


def test_the_last_blocks_are_those_before_the_logits(federation):
  model = mlp()
  params, _ = jax.eval_shape(
    model.init, jax.random.key(0), federation.example()
  )

  def chosen(count, model=model):
    mine = divided.last_blocks("f", count, model, params)
    return [layer for layer in params if mine(f"{layer}/kernel")]

  assert chosen(1) == ["last"]
  assert chosen(2) == ["hidden_1", "last"]
  assert chosen(3) == ["first", "hidden_1", "last"]
  with pytest.raises(ValueError, match="f=4: must be at most 3, the number of"):
    chosen(4)
  unsaid = model._replace(blocks=None)
  assert chosen(1, unsaid) == ["last"]
  with pytest.raises(ValueError, match="f=2: must be 1 with model='mlp', whic"):
    chosen(2, unsaid)
  with pytest.raises(ValueError, match="must have a layer 'last'.*with f=1"):
    divided.last_blocks("f", 1, unsaid, {"one": 0.0, "two": 0.0})


class WithoutBias(nn.Module):
  @nn.compact
  def __call__(self, inputs):
    hidden = nn.relu(nn.Dense(5, name="first")(inputs))
    return nn.Dense(tiny.CLASSES, use_bias=False, name="last")(hidden)


def test_heads_that_are_not_a_kernel_and_a_bias_are_errors(federation):
  training = make_training(tiny.make_settings("local", 2, bits=(2,)))

  def check(model, changed=()):
    return divided.check_linear(
      "any", {"a": model}, federation, training, changed
    )

  assert check(mlp()) == (5, tiny.CLASSES)
  with pytest.raises(ValueError, match="'net': must have a last layer of a k"):
    check(qj.from_linen(WithoutBias(), "net"))
  all_quantized = mlp()._replace(is_quantized=lambda path: True)
  assert check(all_quantized) == (5, tiny.CLASSES)
  with pytest.raises(ValueError, match="must not quantize 'last/bias' with me"):
    check(all_quantized, ("bias",))


def test_the_head_alone_gives_the_logits(federation):
  model = mlp()
  params, stats = model.init(jax.random.key(0), federation.example())
  head = divided.head_params(params)
  assert list(head) == ["last"]
  inputs = federation.client(jnp.int32(0)).batch(jnp.arange(9)).inputs
  assert model.features is not None and model.head is not None
  features, _ = model.features(params, stats, inputs, False)
  logits, _ = model.apply(params, stats, inputs, False)
  np.testing.assert_allclose(model.head(head, features), logits, rtol=1e-6)
