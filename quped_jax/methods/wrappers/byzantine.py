"""Byzantine clients, which send false messages.

Where a method checks what clients report (`FederatedMethod.plausible`), a lie
that the server would see through is no attack: such a part of the message is
sent with every value in its neighbour's place, by which a soft label names
another class; and if that would be noticed too, as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from quped_jax import random_keys
from quped_jax.methods import api

ATTACKS = ("random", "sign_flip")


def check_attack(byzantine_clients: int, clients: int) -> None:
  """Raises a ValueError unless this number of clients can be Byzantine."""
  if not 0 <= byzantine_clients < clients:
    raise ValueError(
      f"byzantine_clients={byzantine_clients}: must be at least 0 and less "
      f"than clients={clients}"
    )


def _sign_flip(message: Any, key: jax.Array, scale: float) -> Any:
  del key
  return jax.tree.map(lambda x: -scale * x if _is_float(x) else ~x, message)


def _random(message: Any, key: jax.Array, scale: float) -> Any:
  def draw(key, shape, dtype):
    if jnp.issubdtype(dtype, jnp.floating):
      return scale * jax.random.normal(key, shape, dtype)
    limits = jnp.iinfo(dtype)
    return jax.random.randint(key, shape, limits.min, limits.max, dtype)

  return optax.tree.random_like(key, message, draw)


def _is_float(x: Any) -> bool:
  return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)


def _shifted(message: Any) -> Any:
  """Every value in its neighbour's place, along the last axis."""
  return jax.tree.map(
    lambda x: jnp.roll(x, 1, axis=-1) if jnp.ndim(x) else x, message
  )


_FALSE: Mapping[str, Callable[..., Any]] = {
  "random": _random,
  "sign_flip": _sign_flip,
}


def _choose(conditions: Any, new: Any, old: Any) -> Any:
  """The new parts where the condition of each holds, else the old ones.

  Args:
    conditions: bools, in a tree with which the structure of the others begins.
    new: a tree of arrays.
    old: a tree like it.
  """

  def choose(condition, new, old):
    return jax.tree.map(
      lambda a, b: jnp.where(condition, a, b).astype(jnp.asarray(b).dtype),
      new,
      old,
    )

  return jax.tree.map(choose, conditions, new, old)


def _best_lie(
  true: Any, lies: Sequence[Any], plausible: Callable[[Any], Any]
) -> Any:
  """The last lie in all parts in which it is believed, else one before it.

  Args:
    true: the true message, which stands where no lie is believed.
    lies: false messages.
    plausible: `message -> bools`, in a tree with which its structure begins.
  """
  parts, structure = jax.tree.flatten(plausible(true))

  def holds(message):
    found = jax.tree.leaves(plausible(message))
    return jnp.all(jnp.stack([jnp.asarray(part) for part in found]))

  def believed(lie, index):
    """Whether a part of a lie is, beside what else is true."""
    only = structure.unflatten([i == index for i in range(len(parts))])
    return holds(_choose(only, lie, true))

  best = true
  for lie in lies:
    alone = [believed(lie, index) for index in range(len(parts))]
    best = _choose(structure.unflatten(alone), lie, best)
  # What is believed part by part may not be so as a whole.
  return _choose(holds(best), best, true)


def with_byzantine_clients(
  method: api.FederatedMethod, first: int, attack: str, scale: float
) -> api.FederatedMethod:
  """The method with some clients that send false messages.

  These clients are trained and evaluated like the others.

  Args:
    method: any method.
    first: clients whose id is this or higher are Byzantine.
    attack: one of `ATTACKS`: "sign_flip" sends minus `scale` times the message,
      "random" sends Gaussian noise with standard deviation `scale`. Of integers
      the first flips all bits, and the second draws any.
    scale: see `attack`.
  """

  def client_update(download, client, data, context, cohort):
    result = method.client_update(download, client, data, context, cohort)
    key = jax.random.fold_in(context.key, random_keys.ATTACK)
    true = result.message
    false = _FALSE[attack](true, key, scale)
    best = _best_lie(
      true,
      [_shifted(true), false],
      lambda message: method.plausible(message, data.train.count),
    )
    lies = context.client_id >= first
    return result._replace(message=_choose(lies, best, true))

  return method.replace(client_update=client_update)
