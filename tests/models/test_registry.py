import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from quped_jax import models


def test_register_model():
  def linear(num_classes, *, scale=1.0, **_):
    del scale
    return models.from_linen(nn.Dense(num_classes), "linear")

  models.register_model("test_linear", linear)
  model = models.create_model("test_linear", 3, scale=2.0)
  params, _ = model.init(jax.random.key(0), jnp.ones((1, 5)))
  chex.assert_shape(params["kernel"], (5, 3))
  models.register_model("test_linear", lambda num_classes, **_: model)
  assert models.create_model("test_linear", 9) is model


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"name": "vgg"}, "model='vgg': must be one of .*cnn1, cnn2, .*mlp"),
    ({"num_classes": 0}, "num_classes=0: must be at least 1"),
    ({"conv": "im2col"}, "conv='im2col': must be one of auto, adaptive"),
    ({"width": 3}, r"options=\['width'\]: must be among \['dtype', 'feat"),
    ({"features": (64, 0)}, r"features=\(64, 0\): must be positive"),
    (
      {"name": "cnn1", "padding": "full"},
      "padding='full': must be one of same, valid",
    ),
    ({"padding": "same"}, r"options=\['padding'\]: must be among"),
    (
      {"name": "cnn1", "conv_features": (-1,)},
      r"conv_features=\(-1,\): must be positive",
    ),
  ],
)
def test_create_model_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    models.create_model(**{"name": "mlp", "num_classes": 10, **arguments})


@pytest.mark.parametrize(
  ("name", "widths", "options"),
  [
    ("mlp", (8,), {"features": (8,)}),
    ("cnn1", (8, 16), {"conv_features": (8, 16), "dense_features": ()}),
    ("cnn1", (8, 9, 7), {"conv_features": (8, 9), "dense_features": (7,)}),
    (
      "cnn2",
      (1, 2, 3, 4, 5, 6),
      {"conv_features": (1, 2, 3, 4), "dense_features": (5, 6)},
    ),
    ("cnn2", (), {}),
    ("resnet8", (), {}),
  ],
)
def test_widths_are_those_of_convolutions_and_then_of_dense_layers(
  name, widths, options
):
  assert models.width_options(name, widths) == options
  assert models.create_model(name, 3, **options).name == name


@pytest.mark.parametrize(
  ("name", "widths", "message"),
  [
    ("cnn1", (8,), r"widths=\(8,\): must have at least 2 widths with the netw"),
    ("cnn2", (8, 8, 8), "must have at least 4 widths with the network 'cnn2'"),
    ("resnet8", (8,), "must have no widths with .* only mlp, cnn1, cnn2 take"),
  ],
)
def test_widths_that_a_network_does_not_take_are_errors(name, widths, message):
  with pytest.raises(ValueError, match=message):
    models.width_options(name, widths)


def test_register_model_refuses_built_in_names():
  with pytest.raises(ValueError, match="name='mlp': must be none of"):
    models.register_model("mlp", models.create_model)
