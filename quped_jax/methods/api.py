"""What a federated method is.

A method is written for ONE client; the engine adds the client axis. It is a
tuple of pure functions that close over what is static. What methods have in
common is in `blocks`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import jax
import jax.numpy as jnp

from quped_jax.data.federation import ClientData
from quped_jax.models import Model

WEIGHTINGS = ("uniform", "samples")


class Models(NamedTuple):
  """The networks of a federation.

  Attributes:
    shared: the architecture of the global model.
    clients: that of each cohort's clients, by name of the cohort.
  """

  shared: Model
  clients: Mapping[str, Model]


class GlobalModel(NamedTuple):
  """A model that travels: the server's state, or its difference.

  Attributes:
    params: w.
    stats: its batch-norm statistics.
  """

  params: Any
  stats: Any


class ClientSpec(NamedTuple):
  """What a client brings that does not change, scalars (arrays when stacked).

  Attributes:
    bits: int32, 1 to 8 or 32.
  """

  bits: Any


class Context(NamedTuple):
  """What a client, or the server, knows in one round.

  Attributes:
    round: int32 `[]`, from 0.
    key: the client's key of this round, or the server's.
    client_id: int32 `[]`; -1 at the server.
    spec: the client's ClientSpec; None at the server.
    rates: this round's step sizes and strength for the client; None at the
      server.
    shared_learning_rate: this round's step size of downloaded models; None at
      the server.
    num_steps: int32 `[]`, how many local steps count, for a straggler; None if
      all do.
    public: the server's PublicSet, which clients know too; None without one.
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
  """What a client's round ends with.

  Attributes:
    client: its new state.
    message: what it sends; a model travels as the difference to the download.
    weight: its weight in the average, float32 `[]`.
    metrics: scalars to report.
  """

  client: Any
  message: Any
  weight: Any
  metrics: dict[str, jax.Array]


class Collected(NamedTuple):
  """What the server keeps of every message of a cohort, apart.

  Attributes:
    clients: int32 `[slots]`, who sent it; -1 where nobody did.
    parts: tree of arrays `[slots, ...]`, zero where nobody did.
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
    collected: the Collected parts of single messages; None unless the method
      asks for them.
  """

  total: Any
  weight: Any
  collected: Any = None


# (params, stats, network): what predictions are made with.
Predictor = tuple[Any, Any, Model]


class InitServer(Protocol):
  """The server's state before the first round."""

  def __call__(self, key: jax.Array, inputs: jax.Array, /) -> Any:
    """Makes it.

    Args:
      key: of the run's initial weights.
      inputs: `[1, ...]`, a sample, of which only the shape and type matter.
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
    """Makes it.

    Args:
      key: the same for all clients and the server, so that all start from the
        same weights unless they fold in their id.
      inputs: as in `InitServer`.
      server: the server's initial state.
      client_id: int32 `[]`.
      spec: the client's.
      cohort: its name.
    """
    ...


class Broadcast(Protocol):
  """What a client of a cohort receives from the server."""

  def __call__(self, server: Any, client_id: Any, cohort: str, /) -> Any:
    """Returns the download."""
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
    """Trains."""
    ...


class Receive(Protocol):
  """What the server makes of one message; summed over clients as it goes."""

  def __call__(
    self, server: Any, message: Any, weight: Any, context: Any, cohort: str, /
  ) -> Aggregate:
    """Returns the message's share of the sum; the context is the server's."""
    ...


class Collect(Protocol):
  """The part of a message that `ServerUpdate` sees apart from the others."""

  def __call__(self, message: Any, /) -> Any:
    """Returns it; it takes its memory times the number of clients."""
    ...


class ServerUpdate(Protocol):
  """The server's state after a round.

  If the weights add up to zero, nobody sent anything, and the state stays as
  it is.
  """

  def __call__(
    self, server: Any, aggregates: dict[str, Aggregate], context: Context, /
  ) -> Any:
    """Returns it, given the cohorts' aggregates by name."""
    ...


class Variants(Protocol):
  """The models by which a client is evaluated.

  Of "personalized", "quantized" and "global" those that exist.
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
    """Returns them by name."""
    ...


class GlobalModelOf(Protocol):
  """The model from which a new client of a cohort would start."""

  def __call__(self, server: Any, cohort: str, /) -> Predictor:
    """Returns it."""
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
  """The default `receive`: weight times message, and the weight."""
  del server, context, cohort
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
  begin_finetune: BeginFinetune | None


class FederatedMethod(NamedTuple):
  """A federated learning method, as pure functions for one client.

  Attributes:
    init_server: `(key, inputs) -> server`.
    init_client: `(key, inputs, server, client_id, spec, cohort) -> client`.
    broadcast: `(server, client_id, cohort) -> download`.
    client_update: `(download, client, data, context, cohort) -> ClientResult`.
    server_update: `(server, {cohort: aggregate}, context) -> server`.
    variants: `(server, client, data, context, cohort) -> {name: (params,
      stats, model)}`.
    primary_variant: the variant that comparisons report.
    gradients: gradient evaluations of a client per round: a forward and a
      backward pass of one network on one batch each. None if that is not
      known, for a method without a budget of gradients.
    receive: `(server, message, weight, context, cohort) -> Aggregate`.
    collect: `message -> part`, which `server_update` finds in
      `Aggregate.collected`; None for nothing.
    averages: whether messages are differences of one model, a GlobalModel or
      a part of one, of which the server takes the `mean_message` over all
      cohorts and nothing else: then it can take another average.
    global_model: `(server, cohort) -> (params, stats, model)`; None if there
      is no such model.
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
  begin_finetune: BeginFinetune | None = None

  def replace(self, **changes: Unpack[Changes]) -> "FederatedMethod":
    """The method with other fields; as `_replace`, with types."""
    return self._replace(**changes)
