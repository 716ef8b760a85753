"""A toy problem is trained with the transformations behind base optimizers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quped_jax.quantization.codebook import Codebook, nearest
from quped_jax.quantization.codebook_tree import (
  get_centers,
  set_centers_tree,
)
from quped_jax.quantization.transforms import (
  keep_params_in_box,
  prox_centers,
  prox_quantize,
)

# Each with the factor by which it scales a steady gradient. Adam's steps do not
# scale with the gradient: there it is the step divided by 0.15, the largest
# gradient at a level.
OPTIMIZERS = {
  "sgd": (lambda: optax.sgd(0.05), 0.05),
  "momentum": (lambda: optax.sgd(0.02, momentum=0.9), 0.02 / (1 - 0.9)),
  "adam": (lambda: optax.adam(0.02), 0.02 / 0.15),
  "adamw": (lambda: optax.adamw(0.02, weight_decay=1e-4), 0.02 / 0.15),
}


# Minimisers of the toy problem: half are near the levels -1 and 1.
TARGET = jnp.concatenate(
  [jnp.linspace(-1.15, -0.85, 20), jnp.linspace(0.85, 1.15, 20)]
)

TOY = {"w": jnp.linspace(-2.0, 2.0, 40), "bias": jnp.zeros(3)}
TOY_CODEBOOKS = {
  "w": Codebook(jnp.array([-1.0, 1.0, 1.0, 1.0]), jnp.int32(2)),
  "bias": optax.MaskedNode(),
}


def toy_loss(params):
  return 0.5 * (
    jnp.sum((params["w"] - TARGET) ** 2) + jnp.sum((params["bias"] - 3.0) ** 2)
  )


def train(tx, steps=400, codebooks=TOY_CODEBOOKS):
  def step(carry, _):
    params, state = carry
    grads = jax.grad(toy_loss)(params)
    updates, state = tx.update(grads, state, params, codebooks=codebooks)
    return (optax.apply_updates(params, updates), state), None

  run = jax.jit(lambda c: jax.lax.scan(step, c, length=steps)[0])
  return run((TOY, tx.init(TOY)))


def share_at_levels(weights):
  return np.mean(np.abs(np.abs(np.asarray(weights)) - 1) < 1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_base_optimizer_converges_with_most_weights_at_levels(name):
  make, rate = OPTIMIZERS[name]
  tx = optax.chain(make(), prox_quantize(rate, 0.3))
  params, _ = train(tx)
  # At a level no gradient exceeds 0.15, and l1 of strength 0.3 holds them.
  assert share_at_levels(params["w"]) > 0.9
  np.testing.assert_array_equal(params["w"] > 0, TARGET > 0)
  np.testing.assert_allclose(params["bias"], 3.0, atol=0.05)
  free, _ = train(make())
  assert share_at_levels(free["w"]) < 0.1


def test_strength_zero_is_the_base_optimizer():
  plain, _ = train(optax.adam(0.02), 50)
  with_prox, _ = train(
    optax.chain(optax.adam(0.02), prox_quantize(1.0, 0.0)), 50
  )
  chex.assert_trees_all_close(with_prox, plain, rtol=1e-5, atol=1e-5)


def test_box_and_prox_together():
  tx = optax.chain(
    optax.sgd(0.05), keep_params_in_box(0.9), prox_quantize(0.05, 0.0)
  )
  params, _ = train(tx)
  np.testing.assert_allclose(
    params["w"], jnp.clip(TARGET, -0.9, 0.9), atol=1e-5
  )
  np.testing.assert_allclose(params["bias"], 3.0, atol=1e-4)


def test_levels_move_to_their_weights_with_both_proxes():
  """Alternating by hand: the levels find the two clusters of targets."""
  tx = optax.chain(optax.sgd(0.1), prox_quantize(0.1, 0.3))
  centers_tx = prox_centers(0.1, 0.3)
  start = {
    "w": Codebook(jnp.array([-0.5, 0.4]), jnp.int32(2)),
    "bias": optax.MaskedNode(),
  }

  def step(carry, _):
    params, codebooks, state, centers_state = carry
    grads = jax.grad(toy_loss)(params)
    updates, state = tx.update(grads, state, params, codebooks=codebooks)
    params = optax.apply_updates(params, updates)
    centers = get_centers(codebooks)
    zeros = jax.tree.map(jnp.zeros_like, centers)
    updates, centers_state = centers_tx.update(
      zeros, centers_state, centers, codebooks=codebooks, weights=params
    )
    centers = optax.apply_updates(centers, updates)
    codebooks = set_centers_tree(codebooks, centers)
    return (params, codebooks, state, centers_state), None

  carry = (TOY, start, tx.init(TOY), centers_tx.init(get_centers(start)))
  run = jax.jit(lambda c: jax.lax.scan(step, c, length=300)[0])
  params, codebooks, *_ = run(carry)
  assert isinstance(codebooks["w"], Codebook)
  levels = np.asarray(codebooks["w"].centers)
  assert -1.15 < levels[0] < -0.85 and 0.85 < levels[1] < 1.15
  index = nearest(params["w"], codebooks["w"])
  np.testing.assert_array_equal(index, TARGET > 0)
  close = np.abs(params["w"] - levels[index]) < 1e-2
  assert np.mean(close) > 0.9
