import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from quped_jax.quantization.optimizers import base_optimizer

PARAMS = {"w": jnp.linspace(-2.0, 2.0, 40), "bias": jnp.zeros(3)}


def loss(params):
  return 0.5 * (jnp.sum(params["w"] ** 2) + jnp.sum((params["bias"] - 3) ** 2))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_base_optimizers_are_those_of_optax(name, weight_decay):
  rate = 0.1
  plain = {
    "sgd": optax.sgd(rate),
    "momentum": optax.sgd(rate, momentum=0.8),
    "adam": optax.adam(rate),
    "adamw": optax.adamw(rate, weight_decay=weight_decay),
  }[name]
  if name != "adamw":
    plain = optax.chain(optax.add_decayed_weights(weight_decay), plain)
  ours = base_optimizer(name, momentum=0.8, weight_decay=weight_decay)
  params: optax.Params = PARAMS
  state, plain_state = ours.init(params), plain.init(params)
  update, plain_update = jax.jit(ours.update), jax.jit(plain.update)
  for _ in range(3):
    grads = jax.grad(loss)(params)
    new, state = update(grads, state, params, learning_rate=rate)
    want, plain_state = plain_update(grads, plain_state, params)
    chex.assert_trees_all_close(new, want, rtol=1e-5, atol=1e-6)
    params = optax.apply_updates(params, new)


def test_an_unknown_optimizer_is_an_error_that_names_the_known():
  with pytest.raises(
    ValueError,
    match="optimizer='rmsprop': must be one of sgd, momentum, adam, adamw",
  ):
    base_optimizer("rmsprop")


def test_momentum_and_weight_decay_are_those_of_torch():
  """g = gradient + decay * w, v = momentum * v + g, w = w - rate * v."""
  ours = base_optimizer("momentum", momentum=0.9, weight_decay=0.1)
  w, velocity = jnp.array([1.0, -2.0]), jnp.zeros(2)
  params, state = w, ours.init(w)
  for grads in (jnp.array([0.5, 0.25]), jnp.array([-1.0, 3.0]), jnp.zeros(2)):
    updates, state = ours.update(grads, state, params, learning_rate=0.01)
    params = optax.apply_updates(params, updates)
    velocity = 0.9 * velocity + grads + 0.1 * w
    w = w - 0.01 * velocity
    chex.assert_trees_all_close(params, w, rtol=1e-6)
