"""Averages that tolerate a few false messages.

Each wraps a method whose server takes the mean of the clients' messages over
all cohorts (`FederatedMethod.averages`). All but the norm-clipped mean also
wrap a method that says how it uses them in place of its sums
(`FederatedMethod.robust`):

  median             of each coordinate, over the clients that sent a message
  trimmed mean       of each coordinate, without its smallest and largest values
  Krum               the message that is nearest to most others
  Multi-Krum         the mean of several such
  Bulyan             the mean around the median of messages that Krum chooses
  geometric median   the point that is nearest to all messages
  norm-clipped mean  of messages that are scaled down to at most a given norm

The first two are in `blocks/ranks.py`, the next four in `distances.py`. All six
give all clients equal weight, since a client that lies about its model may also
lie about its number of samples; clients with weight 0 are left out. They hold
all messages in memory at once. The norm-clipped mean uses the method's own
weights.

Reference:
  Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?,
  2019.
"""

import functools

from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import centers, ranks
from quped_jax.methods.blocks.messages import clip
from quped_jax.methods.wrappers import distances

# They hold all messages of a round at once.
_OF_SINGLE = (
  "median",
  "trimmed_mean",
  "krum",
  "multi_krum",
  "bulyan",
  "geometric_median",
)
AGGREGATIONS = ("mean", *_OF_SINGLE, "norm_clipped_mean")


def check_aggregation(
  aggregation: str,
  *,
  client_state: str,
  clients: int,
  clients_per_round: int,
  byzantine: int,
  kept: int,
) -> None:
  """Raises a ValueError if the average cannot be taken; see `Settings`.

  Args:
    aggregation: one of `AGGREGATIONS`.
    client_state: where clients' states are.
    clients: the number of clients.
    clients_per_round: how many take part in a round; 0 for no such number.
    byzantine: how many may be false.
    kept: of how many Multi-Krum takes the mean; 0 for as many as are safe.
  """
  if aggregation not in _OF_SINGLE:
    return
  if client_state != "device":
    raise ValueError(
      f"client_state={client_state!r}: must be 'device' with aggregation="
      f"{aggregation!r}, which looks at single messages"
    )
  if aggregation not in distances.AGGREGATIONS:
    return
  # By chance or a trace, fewer may take part in some rounds.
  most = clients_per_round or clients
  who = f"{'clients_per_round' if clients_per_round else 'clients'}={most}"
  least = distances.least_messages(aggregation, byzantine)
  if most < least and not byzantine:
    raise ValueError(
      f"{who}: must be at least {least} with aggregation={aggregation!r}"
    )
  if most < least:
    raise ValueError(
      f"assumed_byzantine={byzantine}: must be less with {who} and "
      f"aggregation={aggregation!r}, which needs {least} clients in a round to "
      "tolerate so many"
    )
  if aggregation == "multi_krum" and kept > most:
    raise ValueError(
      f"krum_clients={kept}: must be at most {who}, or 0 for all that take "
      "part but assumed_byzantine + 2"
    )


def check_averages(
  method: api.FederatedMethod, name: str, field: str, allowed: str
) -> None:
  """Raises a ValueError unless a method's server uses the mean alone.

  Args:
    method: the method to wrap.
    name: the method's name.
    field: the setting that needs this, with its value.
    allowed: the only value of the setting for other methods.
  """
  plain = method.receive is api.weighted_sum and method.collect is None
  if not (method.averages and plain):
    raise ValueError(
      f"{field}: must be {allowed} with method={name!r}, whose server does not "
      "just take the mean of models that clients send"
    )


def check_robust(
  method: api.FederatedMethod, name: str, aggregation: str
) -> None:
  """Raises a ValueError unless a method can take this average.

  Args:
    method: the method to wrap.
    name: the method's name.
    aggregation: one of `AGGREGATIONS`.
  """
  single = aggregation in _OF_SINGLE
  if aggregation == "mean" or (single and method.robust is not None):
    return
  field = f"aggregation={aggregation!r}"
  if method.robust is not None:
    raise ValueError(
      f"{field}: must be 'mean' or one of {', '.join(_OF_SINGLE)} with "
      f"method={name!r}, whose messages are not just a model"
    )
  check_averages(method, name, field, "'mean'")


def _center(
  aggregation: str, trim: float, byzantine: int, kept: int
) -> api.Center:
  """An average of single messages, by its name."""
  return {
    "median": ranks.median,
    "trimmed_mean": functools.partial(ranks.trimmed_mean, trim=trim),
    "krum": functools.partial(
      distances.multi_krum, byzantine=byzantine, kept=1
    ),
    "multi_krum": functools.partial(
      distances.multi_krum, byzantine=byzantine, kept=kept
    ),
    "bulyan": functools.partial(distances.bulyan, byzantine=byzantine),
    "geometric_median": distances.geometric_median,
  }[aggregation]


def with_aggregation(
  method: api.FederatedMethod,
  aggregation: str,
  *,
  trim: float = 0.1,
  clip_norm: float = 1.0,
  byzantine: int = 1,
  kept: int = 0,
) -> api.FederatedMethod:
  """The method with an average other than the mean.

  Args:
    method: a method that passes `check_robust`.
    aggregation: one of `AGGREGATIONS`; "mean" is the method itself.
    trim: for "trimmed_mean", see `ranks.trimmed_mean`.
    clip_norm: for "norm_clipped_mean", the largest L2 norm of a message.
    byzantine: how many false messages Krum, Multi-Krum and Bulyan expect.
    kept: for "multi_krum", see `distances.multi_krum`.
  """
  if aggregation == "mean":
    return method

  def receive_clipped(server, message, weight, context, cohort):
    message = clip(message, clip_norm)
    return method.receive(server, message, weight, context, cohort)

  if aggregation == "norm_clipped_mean":
    return method.replace(receive=receive_clipped)

  def receive_apart(server, message, weight, context, cohort):
    del message
    return api.weighted_sum(server, (), weight, context, cohort)

  center = _center(aggregation, trim, byzantine, kept)
  robust = method.robust or centers.in_place_of_mean

  def server_update(server, aggregates, context):
    new = robust(server, aggregates, center, context)
    return method.server_update(server, new, context)

  return method.replace(
    receive=receive_apart,
    collect=lambda message, context: by_precision.split(
      message, context.spec.bits
    ),
    server_update=server_update,
  )
