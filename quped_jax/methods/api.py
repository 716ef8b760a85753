"""What a federated method is.

A method is written for ONE client; the engine adds the client axis. It is a
tuple of pure functions that close over everything static. Code that methods
share is in `blocks`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import jax
import jax.numpy as jnp

from quped_jax.data.federation import ClientData
from quped_jax.methods import by_precision
from quped_jax.models import Model

WEIGHTINGS = ("uniform", "samples")


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
      each precision, arrays `[precisions, ...]`; a client receives and sends
      that of its own, an OfPrecision. None if the model is not quantized or has
      no such statistics.
  """

  params: Any
  stats: Any
  quantized_stats: Any = None


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
  """

  round: Any
  key: Any
  client_id: Any
  spec: Any
  rates: Any
  shared_learning_rate: Any
  num_steps: Any = None
  public: Any = None


class ClientResult(NamedTuple):
  """The result of a client's round.

  Attributes:
    client: its new state.
    message: what it sends; a model travels as the difference from the download.
    weight: its weight in the average, float32 `[]`.
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


class InitServer(Protocol):
  """The server's state before the first round."""

  def __call__(self, key: jax.Array, inputs: jax.Array, /) -> Any:
    """Makes the state.

    Args:
      key: the random key of the run's initial weights.
      inputs: `[1, ...]`, a sample; only its shape and type matter.
    """
    ...


class InitClient(Protocol):
  """A client's state before the first round; it never leaves the client."""

  def __call__(
    self,
    key: jax.Array,
    inputs: jax.Array,
    server: Any,
    client_id: Any,
    spec: ClientSpec,
    cohort: str,
    /,
  ) -> Any:
    """Makes the state.

    Args:
      key: the same for all clients and the server, so that all start from the
        same weights unless they fold in their id.
      inputs: as in `InitServer`.
      server: the server's initial state.
      client_id: int32 `[]`.
      spec: the client's ClientSpec.
      cohort: the name of its cohort.
    """
    ...


class Broadcast(Protocol):
  """What a client of a cohort receives from the server."""

  def __call__(self, server: Any, context: Context, cohort: str, /) -> Any:
    """Returns the download; the context is the server's, of this client."""
    ...


class ClientUpdate(Protocol):
  """A client's round: from its download and its state to a ClientResult."""

  def __call__(
    self,
    download: Any,
    client: Any,
    data: ClientData,
    context: Context,
    cohort: str,
    /,
  ) -> ClientResult:
    """Trains the client."""
    ...


class Receive(Protocol):
  """What one message adds to the server's running sum over clients."""

  def __call__(
    self, server: Any, message: Any, weight: Any, context: Any, cohort: str, /
  ) -> Aggregate:
    """Returns its summand; the context is the server's, of the sender."""
    ...


class Collect(Protocol):
  """The part of each message that `ServerUpdate` sees individually."""

  def __call__(self, message: Any, context: Context, /) -> Any:
    """Returns the part; the server holds one per client in memory.

    Args:
      message: of one client.
      context: the server's, of this client.
    """
    ...


class ServerUpdate(Protocol):
  """The server's state after a round.

  If the weights add up to zero, nobody sent anything, and the state must not
  change.
  """

  def __call__(
    self, server: Any, aggregates: dict[str, Aggregate], context: Context, /
  ) -> Any:
    """Returns the new state, given the aggregates by cohort name."""
    ...


class Variants(Protocol):
  """The models on which a client is evaluated.

  Those of "personalized", "quantized" and "global" that the method has.
  """

  def __call__(
    self,
    server: Any,
    client: Any,
    data: ClientData,
    context: Context,
    cohort: str,
    /,
  ) -> dict[str, Predictor]:
    """Returns the models by name."""
    ...


class GlobalModelOf(Protocol):
  """The model that all clients of a cohort share."""

  def __call__(self, server: Any, cohort: str, /) -> Predictor:
    """Returns the model."""
    ...


class Start(Protocol):
  """The model from which a new client of a cohort starts."""

  def __call__(
    self, server: Any, spec: ClientSpec, cohort: str, /
  ) -> tuple[GlobalModel, Model]:
    """Returns the model, as this client receives it, and its network."""
    ...


class BeginFinetune(Protocol):
  """Begins a client's fine-tuning phase.

  It freezes the assignment of weights to levels.
  """

  def __call__(self, client: Any, /) -> Any:
    """Returns the client's new state."""
    ...


def weighted_sum(
  server: Any, message: Any, weight: Any, context: Context | None, cohort: str
) -> Aggregate:
  """The default `receive`: weight times message, with the weight."""
  del server, cohort
  spec = None if context is None else context.spec
  message = by_precision.split(message, None if spec is None else spec.bits)
  weight = jnp.asarray(weight, jnp.float32)
  total = jax.tree.map(lambda m: (weight * m).astype(m.dtype), message)
  return Aggregate(total, weight)


class Changes(TypedDict, total=False):
  """The fields of a FederatedMethod, for `replace`."""

  init_server: InitServer
  init_client: InitClient
  broadcast: Broadcast
  client_update: ClientUpdate
  server_update: ServerUpdate
  variants: Variants
  primary_variant: str
  gradients: float | None
  receive: Receive
  collect: Collect | None
  averages: bool
  global_model: GlobalModelOf | None
  start: Start | None
  begin_finetune: BeginFinetune | None


class FederatedMethod(NamedTuple):
  """A federated learning method, as pure functions for one client.

  Attributes:
    init_server: `(key, inputs) -> server`.
    init_client: `(key, inputs, server, client_id, spec, cohort) -> client`.
    broadcast: `(server, context, cohort) -> download`.
    client_update: `(download, client, data, context, cohort) -> ClientResult`.
    server_update: `(server, {cohort: aggregate}, context) -> server`.
    variants: `(server, client, data, context, cohort) -> {name: (params,
      stats, model)}`.
    primary_variant: the variant that comparisons report.
    gradients: gradient evaluations of a client per round, each a forward and a
      backward pass of one network on one batch. Every additional local step
      must add the same number; a constant on top is allowed (for digesting,
      say): `budget="gradients"` extrapolates from two numbers of steps. None
      if the number is unknown; the method then cannot run with that budget.
    receive: `(server, message, weight, context, cohort) -> Aggregate`.
    collect: `(message, context) -> part`, which `server_update` finds in
      `Aggregate.collected`; None to collect nothing.
    averages: whether messages are differences of one model (a GlobalModel or
      a part of one) of which the server uses only the `mean_message` over all
      cohorts, so that another average can replace the mean.
    global_model: `(server, cohort) -> (params, stats, model)`; None if there
      is no such model.
    start: `(server, spec, cohort) -> (GlobalModel, model)`, from which a new
      client starts; None for the global model, if there is one.
    begin_finetune: `client -> client`; None if the method has no fine-tuning
      phase.
  """

  init_server: InitServer
  init_client: InitClient
  broadcast: Broadcast
  client_update: ClientUpdate
  server_update: ServerUpdate
  variants: Variants
  primary_variant: str
  gradients: float | None = None
  receive: Receive = weighted_sum
  collect: Collect | None = None
  averages: bool = False
  global_model: GlobalModelOf | None = None
  start: Start | None = None
  begin_finetune: BeginFinetune | None = None

  def replace(self, **changes: Unpack[Changes]) -> "FederatedMethod":
    """The method with some fields replaced: a typed `_replace`."""
    return self._replace(**changes)
