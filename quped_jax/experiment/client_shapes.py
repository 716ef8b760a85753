"""Shapes of what a client has, receives and makes, before anything is run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.simulation import contexts
from quped_jax.simulation.schedule import Schedule
from quped_jax.simulation.state import Population


def of_client(
  method: api.FederatedMethod,
  federation: Federation,
  population: Population,
  fn: Callable[..., Any],
  cohort: str,
  client_id: int,
) -> Any:
  """Shapes of what a function makes of a client's first round.

  Args:
    method: the method.
    federation: the data.
    population: what each client brings.
    fn: `(server, client, data, context) -> tree`.
    cohort: the client's cohort.
    client_id: its number.
  """

  def call(key, federation, population):
    inputs = federation.example()
    context = contexts.of_client(
      Schedule(),
      jnp.int32(0),
      key,
      federation,
      population,
      jnp.int32(client_id),
    )
    server = method.init_server(key, inputs)
    client = method.init_client(
      key, inputs, server, client_id, context.spec, cohort
    )
    return fn(server, client, federation.client(client_id), context)

  return jax.eval_shape(call, jax.random.key(0), federation, population)
