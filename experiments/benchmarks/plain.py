"""Contestants in JAX without this library's engine: SGD as users write it.

All are compiled with JAX's own options. Batches are on the device beforehand,
as `[clients, steps, batch, ...]`; each run starts from the weights that the
last one returned, and reuses their buffers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import quped_jax as qj
from experiments.benchmarks.engine import CLASSES
from quped_jax.methods.blocks.losses import cross_entropy

_LEARNING_RATE = 0.01


class Work(NamedTuple):
  """What the clients have and do.

  Attributes:
    params: weights of each client, arrays `[clients, ...]`.
    batches: (inputs, labels), arrays `[clients, steps, batch, ...]`.
    step: `(params, batch) -> (params, loss)`, one step of one client.
  """

  params: Any
  batches: tuple[jax.Array, jax.Array]
  step: Callable[[Any, Any], tuple[Any, jax.Array]]


def make_work(
  model: qj.Model, clients: int, steps: int, batch: int, shape: tuple[int, ...]
) -> Work:
  """Random weights and batches, different for each client."""
  keys = jax.random.split(jax.random.key(0), 3)
  size = (clients, steps, batch)
  inputs = jax.random.normal(keys[0], (*size, *shape))
  labels = jax.random.randint(keys[1], size, 0, CLASSES)
  example = jnp.zeros((1, *shape))
  init = jax.jit(jax.vmap(lambda key: model.init(key, example)))
  params, stats = init(jax.random.split(keys[2], clients))
  if jax.tree.leaves(stats):
    raise ValueError(f"model={model.name!r}: must be one without statistics")
  if model.random:
    raise ValueError(f"model={model.name!r}: must draw no random numbers")

  def step(params, batch):
    def loss_fn(params):
      logits, _ = model.apply(params, {}, batch[0], True)
      return cross_entropy(logits, batch[1])

    loss, grads = jax.value_and_grad(loss_fn)(params)
    new = jax.tree.map(lambda p, g: p - _LEARNING_RATE * g, params, grads)
    return new, loss

  return Work(params, (inputs, labels), step)


def _copy(tree: Any) -> Any:
  """Copies whose buffers a program may reuse."""
  return jax.tree.map(jnp.copy, tree)


def _each(tree: Any) -> list[Any]:
  """A tree per client."""
  count = jax.tree.leaves(tree)[0].shape[0]
  return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def _repeat(jitted: Any, params: Any, *args: Any) -> Callable[[], Any]:
  """Runs on its own last results; compiled when made, with JAX's options."""
  state = _copy(params)
  program = jitted.lower(state, *args).compile()

  def run():
    nonlocal state
    state = jax.block_until_ready(program(state, *args))
    return state

  return run


def _client_round(work: Work):
  return lambda params, batches: jax.lax.scan(work.step, params, batches)[0]


def vmapped(work: Work) -> Callable[[], Any]:
  """All clients under vmap, their steps in a scan."""
  program = jax.jit(jax.vmap(_client_round(work)), donate_argnums=0)
  return _repeat(program, work.params, work.batches)


def vmapped_step(work: Work) -> Callable[[], Any]:
  """One step of all clients under vmap, without any loop."""
  step = jax.vmap(lambda params, batch: work.step(params, batch)[0])
  batch = jax.tree.map(lambda x: x[:, 0], work.batches)
  return _repeat(jax.jit(step, donate_argnums=0), work.params, batch)


def mapped(work: Work, clients: int) -> Callable[[], Any]:
  """One step of the first few clients in a compiled loop over them."""

  def program(params, batches):
    return jax.lax.map(lambda x: work.step(*x)[0], (params, batches))

  params, batch = jax.tree.map(
    lambda x: x[:clients], (work.params, [b[:, 0] for b in work.batches])
  )
  return _repeat(jax.jit(program, donate_argnums=0), params, batch)


def dispatched(work: Work) -> Callable[[], Any]:
  """A Python loop over clients and steps, around one compiled client step."""
  step = jax.jit(lambda p, batch: work.step(p, batch)[0], donate_argnums=0)
  batches = [_each(of_client) for of_client in _each(work.batches)]
  state = _each(work.params)

  def run():
    for client, own in enumerate(batches):
      for batch in own:
        state[client] = step(state[client], batch)
    return jax.block_until_ready(state)

  return run


def looped(work: Work) -> Callable[[], Any]:
  """A Python loop over clients, around one compiled client round.

  This is how most frameworks simulate; the steps are in a scan.
  """
  program = jax.jit(_client_round(work), donate_argnums=0)
  batches = _each(work.batches)
  state = _each(work.params)

  def run():
    for client, own in enumerate(batches):
      state[client] = program(state[client], own)
    return jax.block_until_ready(state)

  return run
