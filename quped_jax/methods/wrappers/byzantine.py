"""Byzantine clients, which send false messages."""

from collections.abc import Callable, Mapping
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
  return optax.tree.scale(-scale, message)


def _random(message: Any, key: jax.Array, scale: float) -> Any:
  noise = optax.tree.random_like(key, message, jax.random.normal)
  return optax.tree.scale(scale, noise)


_FALSE: Mapping[str, Callable[..., Any]] = {
  "random": _random,
  "sign_flip": _sign_flip,
}


def with_byzantine_clients(
  method: api.FederatedMethod, first: int, attack: str, scale: float
) -> api.FederatedMethod:
  """The method with some clients that send false messages.

  These clients are trained and evaluated like the others.

  Args:
    method: any method whose messages are floats.
    first: clients whose id is this or higher are Byzantine.
    attack: one of `ATTACKS`: "sign_flip" sends minus `scale` times the message,
      "random" sends Gaussian noise with standard deviation `scale`.
    scale: see `attack`.
  """

  def client_update(download, client, data, context, cohort):
    result = method.client_update(download, client, data, context, cohort)
    key = jax.random.fold_in(context.key, random_keys.ATTACK)
    false = _FALSE[attack](result.message, key, scale)
    lies = context.client_id >= first
    message = jax.tree.map(
      lambda a, b: jnp.where(lies, a, b).astype(b.dtype), false, result.message
    )
    return result._replace(message=message)

  return method.replace(client_update=client_update)
