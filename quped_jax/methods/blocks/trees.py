"""Arithmetic on models, as trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp


def difference(new: Any, old: Any) -> Any:
  """new - old, leaf by leaf."""
  return jax.tree.map(jnp.subtract, new, old)


def squared_distance(first: Any, second: Any) -> jax.Array:
  """Sum over all leaves of the squared differences of two trees."""
  squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), first, second)
  return sum(jax.tree.leaves(squares), start=jnp.zeros(()))


def pull(params: Any, to: Any, strength: float | jax.Array) -> Any:
  """The gradient in params of strength / 2 times their squared distance."""
  return jax.tree.map(lambda x, y: strength * (x - y), params, to)
