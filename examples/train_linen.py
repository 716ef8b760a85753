"""Quantize your own training loop, of a flax linen module; no federation.

python examples/train_linen.py

Everything is as without quantization, but for the codebooks, the second
transformation in the chain, and an argument of `update`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import quped_jax as qj

STEPS, BATCH = 600, 64


class Net(nn.Module):
  @nn.compact
  def __call__(self, inputs):
    hidden = nn.relu(nn.Dense(64, name="first")(inputs))
    hidden = nn.relu(nn.Dense(64, name="middle")(hidden))
    return nn.Dense(10, name="last")(hidden)


images, digits = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
inputs, labels = jnp.asarray(images[order] / 16), jnp.asarray(digits[order])
train, test = slice(0, 1400), slice(1400, None)

net = Net()
params = net.init(jax.random.key(0), inputs[:1])["params"]
codebooks = qj.init_codebooks(params, lambda path: path == "middle/kernel", 2)

rate = optax.cosine_decay_schedule(3e-3, STEPS)
# Under Adam a strength of 1 outweighs the gradients: it grows until then.
strength = optax.linear_schedule(0.0, 2.0, STEPS)
optimizer = optax.chain(optax.adam(rate), qj.prox_quantize(rate, strength))
state = optimizer.init(params)


def forward(params, inputs) -> Any:
  return net.apply({"params": params}, inputs)


@jax.jit
def step(params, state, rows):
  def loss(params):
    logits = forward(params, inputs[rows])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels[rows]
    ).mean()

  grads = jax.grad(loss)(params)
  updates, state = optimizer.update(grads, state, params, codebooks=codebooks)
  return optax.apply_updates(params, updates), state


def accuracy(params):
  logits = forward(params, inputs[test])
  return float((logits.argmax(axis=1) == labels[test]).mean())


rows = np.random.default_rng(1).integers(0, train.stop, (STEPS, BATCH))
for batch in rows:
  params, state = step(params, state, batch)
model = qj.hard_quantize_tree(params, codebooks)

print(
  f"as trained: {accuracy(params):.3f}, at four levels: {accuracy(model):.3f}"
)
print("levels:", jnp.unique(model["middle"]["kernel"]))
