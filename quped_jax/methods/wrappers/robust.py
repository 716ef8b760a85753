"""Averages that tolerate a few false messages.

Each wraps a method whose server takes the mean of the clients' messages over
all cohorts (`FederatedMethod.averages`). The first two also wrap a method that
says how it uses them in place of its sums (`FederatedMethod.robust`):

  median             of each coordinate, over the clients that sent a message
  trimmed mean       of each coordinate, without its smallest and largest values
  norm-clipped mean  of messages that are scaled down to at most a given norm

Median and trimmed mean give all clients equal weight, since a client that lies
about its model may also lie about its number of samples; clients with weight 0
are left out. They hold all messages in memory at once. The norm-clipped mean
uses the method's own weights.

References:
  Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?,
  2019.
"""

from quped_jax.methods import api, by_precision
from quped_jax.methods.blocks import centers, ranks
from quped_jax.methods.blocks.messages import clip

AGGREGATIONS = ("mean", "median", "trimmed_mean", "norm_clipped_mean")


def check_aggregation(aggregation: str, client_state: str) -> None:
  """Raises a ValueError if the average cannot be taken; see `Settings`."""
  if aggregation in ("median", "trimmed_mean") and client_state != "device":
    raise ValueError(
      f"client_state={client_state!r}: must be 'device' with aggregation="
      f"{aggregation!r}, which looks at single messages"
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
  ranks = aggregation in ("median", "trimmed_mean")
  if aggregation == "mean" or (ranks and method.robust is not None):
    return
  field = f"aggregation={aggregation!r}"
  if method.robust is not None:
    raise ValueError(
      f"{field}: must be 'mean', 'median' or 'trimmed_mean' with "
      f"method={name!r}, whose messages are not just a model"
    )
  check_averages(method, name, field, "'mean'")


def with_aggregation(
  method: api.FederatedMethod,
  aggregation: str,
  *,
  trim: float = 0.1,
  clip_norm: float = 1.0,
) -> api.FederatedMethod:
  """The method with an average other than the mean.

  Args:
    method: a method that passes `check_robust`.
    aggregation: one of `AGGREGATIONS`; "mean" is the method itself.
    trim: for "trimmed_mean", see `ranks.trimmed_mean`.
    clip_norm: for "norm_clipped_mean", the largest L2 norm of a message.
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

  def center(messages, sent):
    if aggregation == "median":
      return ranks.median(messages, sent)
    return ranks.trimmed_mean(messages, sent, trim)

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
