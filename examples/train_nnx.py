"""Quantize your own training loop, of a flax NNX module; no federation.

python examples/train_nnx.py

`nnx.Optimizer` passes further arguments of its `update` on, so that it takes
the codebooks.
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import quped_jax as qj

STEPS, BATCH = 600, 64


class Net(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(64, 64, rngs=rngs)
    self.middle = nnx.Linear(64, 64, rngs=rngs)
    self.last = nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, inputs):
    hidden = nnx.relu(self.first(inputs))
    return self.last(nnx.relu(self.middle(hidden)))


images, digits = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
inputs, labels = jnp.asarray(images[order] / 16), jnp.asarray(digits[order])
train, test = slice(0, 1400), slice(1400, None)

net = Net(nnx.Rngs(0))
params = nnx.as_pure(nnx.state(net, nnx.Param))
codebooks = qj.init_codebooks(params, lambda path: path == "middle/kernel", 2)

rate = optax.cosine_decay_schedule(3e-3, STEPS)
# Under Adam a strength of 1 outweighs the gradients: it grows until then.
strength = optax.linear_schedule(0.0, 2.0, STEPS)
chain = optax.chain(optax.adam(rate), qj.prox_quantize(rate, strength))
optimizer = nnx.Optimizer(net, chain, wrt=nnx.Param)


@nnx.jit
def step(net, optimizer, rows):
  def loss(net):
    return optax.softmax_cross_entropy_with_integer_labels(
      net(inputs[rows]), labels[rows]
    ).mean()

  optimizer.update(net, nnx.grad(loss)(net), codebooks=codebooks)


def accuracy(net):
  return float((net(inputs[test]).argmax(axis=1) == labels[test]).mean())


rows = np.random.default_rng(1).integers(0, train.stop, (STEPS, BATCH))
for batch in rows:
  step(net, optimizer, batch)
as_trained = accuracy(net)
params = nnx.as_pure(nnx.state(net, nnx.Param))
nnx.update(net, qj.hard_quantize_tree(params, codebooks))

print(f"as trained: {as_trained:.3f}, at four levels: {accuracy(net):.3f}")
print("levels:", jnp.unique(net.middle.kernel[...]))
