"""What a network does with its parameters, in the order of its forward pass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import quped_jax as qj
from quped_jax.models import uses

SERIES = jax.ShapeDtypeStruct((2, 6, 3), jnp.float32)


def follow(model: qj.Model, inputs) -> uses.Trace:
  params, stats = jax.eval_shape(model.init, jax.random.key(0), inputs)
  return uses.trace(
    lambda params, stats, x: model.apply(params, stats, x, False)[0],
    *(params, stats, inputs),
  )


def follow_module(forward, inputs=SERIES) -> uses.Trace:
  """Follows a module whose forward pass is a function of itself and inputs."""

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return forward(self, x)

  return follow(qj.from_linen(Net(), "net"), inputs)


def flat(x):
  return x.reshape(x.shape[0], -1)


@pytest.mark.parametrize(
  ("name", "shape", "first"),
  [
    ("mlp", (8, 8, 1), "first/kernel"),
    ("cnn2", (8, 8, 1), "first/kernel"),
    ("resnet8", (8, 8, 1), "first/kernel"),
    ("transformer", (8,), "first/embedding"),
  ],
)
def test_built_in_networks_use_their_first_and_last_layer_so(
  name, shape, first
):
  inputs = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  found = follow(qj.create_model(name, 4), inputs)
  assert found.first == {first}
  assert found.last == {"last/kernel"}


def test_uses_come_in_the_order_of_the_forward_pass_not_of_names():
  def forward(net, x):
    x = nn.relu(nn.Dense(4, name="z")(flat(x)))
    x = nn.relu(nn.Dense(4, name="a")(x))
    return nn.Dense(4, name="m")(x)

  found = follow_module(forward)
  kernels = [p for use in found.uses for p in use.paths if "kernel" in p]
  assert kernels == ["z/kernel", "a/kernel", "m/kernel"]
  assert (found.first, found.last) == ({"z/kernel"}, {"m/kernel"})


def test_a_parameter_is_used_where_it_meets_the_inputs():
  """Not where it takes another type, shape or scale, which may be earlier."""

  def forward(net, x):
    late = net.param("late/kernel", nn.initializers.ones, (4, 4))
    late = late.astype(jnp.bfloat16).T / jnp.sum(late)
    x = nn.Dense(4, dtype=jnp.bfloat16)(flat(x))
    return nn.Dense(4)(x) @ late

  found = follow_module(forward)
  assert found.first == {"Dense_0/kernel"}
  assert found.last == {"late/kernel"}
  assert found.uses[-1].paths == ("late/kernel",)


def test_layers_side_by_side_are_all_first_or_all_last():
  def forward(net, x):
    x = flat(x)
    hidden = nn.relu(nn.Dense(4, name="in")(x))
    hidden = nn.Dense(4, name="middle")(hidden)
    return nn.Dense(4, name="skip")(x) + nn.Dense(4, name="out")(hidden)

  found = follow_module(forward)
  assert found.first == {"in/kernel", "skip/kernel"}
  assert found.last == {"out/kernel", "skip/kernel"}


def test_a_recurrent_layer_is_followed_through_its_loop():
  def forward(net, x):
    states: Any = nn.RNN(nn.SimpleCell(4, name="cell"))(x)
    return nn.Dense(4, name="out")(states[:, -1])

  found = follow_module(forward)
  # The kernel of the state sees what it saw of the inputs before.
  assert found.first == {"cell/i/kernel"}
  assert found.last == {"out/kernel"}


def test_loops_and_branches_pass_on_what_is_in_them():
  def forward(net, x):
    first = net.param("first/kernel", nn.initializers.ones, (18, 4))
    inner = net.param("inner/kernel", nn.initializers.ones, (4, 4))
    x = flat(x) @ first
    x = lax.fori_loop(0, x.shape[0], lambda _, x: x @ inner, x)
    x = lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ inner, x)
    return lax.cond(x.sum() > 0, lambda x: x, lambda x: x @ inner, x)

  found = follow_module(forward)
  assert found.first == {"first/kernel"}
  assert found.last == {"inner/kernel"}
  assert [use.paths for use in found.uses] == [
    ("first/kernel",),
    *[("inner/kernel",)] * 3,
  ]


def test_functions_with_derivatives_of_their_own_are_told_apart():
  def conv(how):
    return follow_module(
      lambda net, x: flat(nn.Conv(2, (3,), conv_general_dilated=how)(x))
    ).uses[0]

  ours, plain = (
    conv(qj.models.resolve_conv("canonical")),
    conv(lax.conv_general_dilated),
  )
  assert ours.custom and not plain.custom
  assert plain.equation.primitive.name == "conv_general_dilated"
