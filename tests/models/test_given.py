"""Networks that users give: checked by shape, with errors that say so."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import quped_jax as qj
from quped_jax import models
from quped_jax.models import given
from quped_jax.quantization.codebook_tree import path_name

INPUTS = jax.ShapeDtypeStruct((1, 6), jnp.float32)
CLASSES = 4


class Net(nn.Module):
  """Three layers with the names that flax gives them."""

  classes: int = CLASSES

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(5)(x))
    x = nn.relu(nn.Dense(5)(x))
    return nn.Dense(self.classes)(x)


def linen(forward) -> qj.Model:
  class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      return forward(self, x, train)

  return qj.from_linen(Own(), "own")


def settled(model: qj.Model) -> qj.Model:
  return given.settle(model, CLASSES, INPUTS)


def quantized(model: qj.Model, inputs=INPUTS) -> list[str]:
  params, _ = jax.eval_shape(model.init, jax.random.key(0), inputs)
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return [n for n in (path_name(p) for p, _ in leaves) if model.is_quantized(n)]


class Wide(nnx.Module):
  def __init__(self, rngs):
    self.enter = nnx.Linear(6, 5, rngs=rngs)
    self.between = nnx.Linear(5, 5, rngs=rngs)
    self.leave = nnx.Linear(5, CLASSES, rngs=rngs)

  def __call__(self, x):
    return self.leave(nnx.relu(self.between(nnx.relu(self.enter(x)))))


@pytest.mark.parametrize(
  ("model", "message"),
  [
    (Net, "model=Net: must be a qj.Model, not a class; qj.from_linen"),
    (Net(), "model=Net: must be a qj.Model; qj.from_linen"),
    (qj.Model, "model=Model: must be a qj.Model, not a class"),
    ("mlp", "model='mlp': must be a qj.Model; the name of a network is a se"),
    (nnx.eval_shape(lambda: Wide(nnx.Rngs(0))), "model=Wide: must be .*NNX"),
    ((1, 2), "model=tuple: must be a qj.Model$"),
    (
      qj.create_model("mlp", 4)._replace(apply=3),  # pyright: ignore
      "model.apply=3: must be a function",
    ),
  ],
)
def test_what_is_no_model_is_an_error_before_there_are_data(model, message):
  with pytest.raises(ValueError, match=message):
    qj.build(qj.Settings(dataset="nope"), model=model)


@pytest.mark.parametrize(
  ("module", "message"),
  [
    (Net, r"module=Net: must be an instance .*such as Net\(...\), not the cl"),
    (lambda x: x, "module=function: must be a flax linen module"),
  ],
)
def test_what_is_no_linen_module_makes_no_model(module, message):
  with pytest.raises(ValueError, match=message):
    qj.from_linen(module, "net")
  with pytest.raises(ValueError, match="name=3: must be text"):
    qj.from_linen(Net(), 3)  # pyright: ignore


def test_a_factory_must_make_models():
  with pytest.raises(ValueError, match="factory=Model: must be a function"):
    qj.register_model("test_given", qj.create_model("mlp", 4))  # pyright: ignore
  qj.register_model("test_given", lambda classes, **_: Net(classes))  # pyright: ignore
  with pytest.raises(ValueError, match="model=Net: must be a qj.Model"):
    qj.create_model("test_given", 4)


@pytest.mark.parametrize(
  ("forward", "message"),
  [
    (lambda net, x, t: nn.Dense(2)(x), r"logits \[batch, 4\].*\[4103, 2\]"),
    (lambda net, x, t: nn.Dense(6)(x), r"logits \[batch, 4\].*\[4103, 6\]"),
    (lambda net, x, t: nn.Dense(4)(x)[:1], r"of 4103 it returns \[1, 4\]"),
    (lambda net, x, t: nn.Dense(4)(x)[:99], r"of 4103 it returns \[99, 4\]"),
    (lambda net, x, t: nn.Dense(4)(x).T, r"of 4103 it returns \[4, 4103\]"),
    (lambda net, x, t: nn.Dense(4)(x)[None], r"returns \[1, 4103, 4\]"),
    (lambda net, x, t: (nn.Dense(4)(x), x), "nothing else; it returns a tuple"),
    (lambda net, x, t: nn.Dense(4)(x) > 0, "floating type; it returns bool"),
    (lambda net, x, t: x @ jnp.ones((7, 4)), r"shape \(6,\); .* fails with Ty"),
    (lambda net, x, t: nn.Dense(4)(x)[:, t.nope], "fails with AttributeError"),
    (
      lambda net, x, t: nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(x)),
      "module: must draw random numbers in training alone; that of",
    ),
  ],
)
def test_a_network_that_does_not_fit_is_an_error_that_says_so(forward, message):
  with pytest.raises(ValueError, match=message):
    settled(linen(forward))


def test_a_network_that_drops_out_is_found_to_be_random():
  def forward(net, x, train):
    return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(x))

  assert not linen(forward).random and settled(linen(forward)).random
  assert not settled(qj.from_linen(Net(), "net")).random
  # Checked as others are, once it has a key.
  with pytest.raises(ValueError, match=r"logits \[batch, 4\].*\[4103, 1\]"):
    settled(linen(lambda *args: forward(*args)[:, :1]))


def test_functions_that_say_they_are_random_take_a_key():
  said = qj.from_linen(Net(), "net")
  assert settled(said._replace(random=True)).random

  def apply(params, stats, inputs, train):
    return said.apply(params, stats, inputs, train)

  with pytest.raises(ValueError, match="apply fails with TypeError: .* 5 were"):
    settled(said._replace(apply=apply, random=True))
  wrong: Any = 1
  with pytest.raises(ValueError, match="model.random=1: must be a bool"):
    qj.build(qj.Settings(), model=said._replace(random=wrong))


def test_functions_that_return_something_else_are_an_error():
  model = qj.from_linen(Net(), "net")
  for field, message in (
    ("init", r"must have an init that returns \(params, stats\)"),
    ("apply", r"must have an apply that returns \(logits, stats\)"),
  ):
    whole = getattr(model, field)
    alone = model._replace(
      **{field: lambda *args, whole=whole: [whole(*args)[0]]}
    )
    with pytest.raises(ValueError, match=f"model='net': {message}"):
      settled(alone)


def test_statistics_keep_their_shapes_and_types():
  model = qj.from_linen(Net(), "net")

  def init(key, inputs):
    return model.init(key, inputs)[0], {"seen": jnp.zeros(3)}

  def apply(params, stats, inputs, train):
    logits, _ = model.apply(params, {}, inputs, train)
    return logits, {"seen": stats["seen"][:2]} if train else stats

  message = r"'seen' was float32\[3\] and is float32\[2\], with train=True"
  with pytest.raises(ValueError, match=message):
    settled(model._replace(init=init, apply=apply))


@pytest.mark.parametrize(
  ("params", "stats", "message"),
  [
    (jnp.int32, jnp.float32, "parameters of float32, .*'x' is int32"),
    (jnp.complex64, jnp.float32, "parameters of .*'x' is complex64"),
    (jnp.float32, jnp.complex64, "statistics of .*'x' is complex64"),
    (jnp.bfloat16, jnp.int32, None),
    (jnp.float16, bool, None),
  ],
)
def test_types_that_cannot_be_trained_are_named(params, stats, message):
  def init(key, inputs):
    return {"x": jnp.zeros(3, params)}, {"x": jnp.zeros(3, stats)}

  model = qj.create_model("mlp", 4)._replace(name="own", init=init)
  if message is None:
    return given.check_trainable(model, INPUTS)
  with pytest.raises(ValueError, match=f"model='own': must have {message}"):
    given.check_trainable(model, INPUTS)


def test_float64_is_named_where_jax_has_it():
  def init(key, inputs):
    return {"w": np.zeros(3)}, {}

  model = qj.create_model("mlp", 4)._replace(init=init)
  with (
    jax.enable_x64(True),
    pytest.raises(ValueError, match="parameters of .*'w' is float64"),
  ):
    given.check_trainable(model, INPUTS)


def test_the_first_and_the_last_layer_are_known_by_their_place():
  model = settled(qj.from_linen(Net(), "net"))
  assert quantized(model) == ["Dense_1/kernel"]


def test_a_layer_that_has_the_name_is_the_one():
  """So networks that follow the convention keep exactly their tensors."""

  def forward(net, x, train):
    x = nn.Dense(5, name="stem")(x)
    x = nn.Dense(5, name="first")(x)
    x = nn.Dense(5, name="middle")(x)
    return nn.Dense(4, name="out")(x)

  model = settled(linen(forward))
  assert quantized(model) == ["middle/kernel", "stem/kernel"]


def test_a_predicate_of_the_users_own_is_obeyed():
  everywhere = qj.from_linen(Net(), "net", lambda path: "kernel" in path)
  assert settled(everywhere) is everywhere


@pytest.mark.parametrize(
  ("name", "shape", "expected"),
  [
    ("mlp", (8, 8, 1), ["hidden_1/kernel"]),
    ("cnn1", (8, 8, 1), ["hidden_1/kernel", "hidden_2/kernel"]),
    ("resnet8", (8, 8, 1), None),
    ("transformer", (6,), None),
  ],
)
def test_built_in_networks_keep_their_tensors(name, shape, expected):
  inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  model = qj.create_model(name, CLASSES)
  assert given.settle(model, CLASSES, inputs) is model
  if expected is not None:
    assert quantized(model, inputs) == expected


def wide(pure: bool) -> qj.Model:
  """The network from NNX, its parameters a dict or NNX's own state."""
  graph = nnx.graphdef(nnx.eval_shape(lambda: Wide(nnx.Rngs(0))))
  convert = nnx.to_pure_dict if pure else (lambda state: state)
  return qj.Model(
    "wide",
    lambda key, inputs: (convert(nnx.state(Wide(nnx.Rngs(key)))), {}),
    lambda params, stats, inputs, train: (
      nnx.merge(graph, params)(inputs),
      stats,
    ),
    models.hidden_kernels,
  )


@pytest.mark.parametrize("pure", [True, False])
def test_networks_from_nnx_are_quantized_alike(pure):
  assert quantized(settled(wide(pure))) == ["between/kernel"]


def test_a_plain_convolution_is_found_and_ours_is_not():
  def found(**conv):
    class Net(nn.Module):
      @nn.compact
      def __call__(self, x):
        x = nn.Conv(2, (3, 3), **conv)(x)
        return nn.Dense(4)(x.reshape(x.shape[0], -1))

    inputs = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
    return given.plain_convolutions(qj.from_linen(Net(), "net"), inputs)

  ours = models.resolve_conv("auto")
  assert found() == ["Conv_0/kernel"]
  assert found(conv_general_dilated=ours) == []
  # Those that ours do not compute.
  assert found(feature_group_count=2) == found(kernel_dilation=2) == []
