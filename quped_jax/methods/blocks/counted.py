"""Messages with a model's difference and the client's samples per label."""

from typing import Any, NamedTuple

import jax

from quped_jax.methods import api
from quped_jax.methods.blocks import reports


class Counted(NamedTuple):
  """What a client sends.

  Attributes:
    model: the difference.
    counts: its number of samples per label, float32 `[classes]`.
  """

  model: api.GlobalModel
  counts: jax.Array


def receive(
  server: Any, message: Counted, weight: Any, context: Any, cohort: str
) -> api.Aggregate:
  """The `receive` that adds up the models."""
  return api.weighted_sum(server, message.model, weight, context, cohort)


def plausible(message: Counted, samples: Any) -> Any:
  """The `plausible` that looks at the counts."""
  counts = reports.are_counts(message.counts, samples)
  return message._replace(model=True, counts=counts)
