"""Averages of single messages, in place of the mean that a server takes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.methods import api
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.messages import instead_of_mean


def senders(collected: api.Collected) -> Any:
  """Which slots hold a message that counts, bool `[slots]`."""
  return (collected.clients >= 0) & (collected.weights > 0)


def in_place_of_mean(
  server: Any,
  aggregates: Mapping[str, api.Aggregate],
  center: api.Center,
  context: api.Context,
) -> dict[str, api.Aggregate]:
  """Aggregates whose `mean_message` is the center of all messages.

  The default of `FederatedMethod.robust`; see `api.Robust`.
  """
  del server, context
  everyone = server_lib.all_collected(aggregates)
  sent = senders(everyone)
  return instead_of_mean(
    aggregates, center(everyone.parts, sent), jnp.any(sent)
  )


def in_place_of_sum(
  server: Any,
  aggregates: Mapping[str, api.Aggregate],
  center: api.Center,
  context: api.Context,
) -> dict[str, api.Aggregate]:
  """Aggregates with the center of all messages, times the number of senders.

  What takes the place of uniform sums, for a server to which it matters how
  many clients took part.
  """
  sent = [senders(aggregate.collected) for aggregate in aggregates.values()]
  count = sum(jnp.sum(x) for x in sent)
  new = in_place_of_mean(server, aggregates, center, context)
  return jax.tree.map(lambda x: count * x, new)
