"""What clients and server know, send and receive."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from quped_jax.models import Model
from quped_jax.short_repr import short_repr


class Models(NamedTuple):
  """The networks of a federation.

  Attributes:
    shared: the architecture of the global model.
    clients: the architecture of each cohort's clients, by cohort name.
  """

  shared: Model
  clients: Mapping[str, Model]


class GlobalModel(NamedTuple):
  """A model that travels: the server's, or a difference from it.

  Attributes:
    params: w.
    stats: the batch-norm statistics.
    quantized_stats: those of its quantized forms. The server holds a set for
      each precision, see `by_precision.Held`; a client receives and sends that
      of its own, an `OfPrecision`. None if the model is not quantized or has no
      such statistics.
  """

  params: Any
  stats: Any
  quantized_stats: Any = None

  __repr__ = short_repr


def is_statistic(path: Sequence[Any]) -> bool:
  """Whether a leaf of a tree is a statistic of a model, by its path."""
  fields = {getattr(key, "name", None) for key in path}
  return bool(fields & {"stats", "quantized_stats"})


class ClientSpec(NamedTuple):
  """Fixed properties of a client: scalars (arrays when stacked).

  Attributes:
    bits: its precision, int32, 1 to 8 or 32.
  """

  bits: Any


class Context(NamedTuple):
  """What a client or the server knows in one round.

  Attributes:
    round: int32 `[]`, from 0.
    key: the client's or the server's random key for this round.
    client_id: int32 `[]`; -1 at the server, unless it deals with one client:
      then that client's.
    spec: the client's ClientSpec; None at the server, likewise.
    rates: the client's step sizes and regularization strength in this round;
      None at the server.
    shared_learning_rate: the step size for downloaded models in this round;
      None at the server.
    num_steps: int32 `[]`, how many local steps count (fewer for a straggler);
      None if all count.
    public: the PublicSet, known to the server and all clients; None without
      one.
    own_steps: int32 `[]`, how many local steps a round of the client has if it
      is no straggler; None if it has `Training.steps`, as all others.
  """

  round: Any
  key: Any
  client_id: Any
  spec: Any
  rates: Any
  shared_learning_rate: Any
  num_steps: Any = None
  public: Any = None
  own_steps: Any = None


class ClientResult(NamedTuple):
  """The result of a client's round.

  Attributes:
    client: its new state.
    message: what it sends, `()` for nothing; a model travels as the difference
      from the download.
    weight: its weight in the average, float32 `[]`: from 0 to its number of
      training samples, which the server knows. A client that claims any other
      weight is left out of the round, as one that diverges is.
    metrics: scalars to report.
  """

  client: Any
  message: Any
  weight: Any
  metrics: dict[str, jax.Array]


class Collected(NamedTuple):
  """The parts of a cohort's messages that the server keeps one by one.

  Attributes:
    clients: int32 `[slots]`, the senders; -1 in an empty slot.
    parts: tree of arrays `[slots, ...]`, zero in an empty slot.
    weights: float32 `[slots]`, likewise.
  """

  clients: jax.Array
  parts: Any
  weights: jax.Array


class Aggregate(NamedTuple):
  """What the server received from a cohort.

  Attributes:
    total: sum of weight times message.
    weight: sum of the weights, float32 `[]`.
    collected: the Collected parts of the individual messages; None unless the
      method has `collect`.
  """

  total: Any
  weight: Any
  collected: Any = None


# (params, stats, network): all that a prediction needs.
Predictor = tuple[Any, Any, Model]
