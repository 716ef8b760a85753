"""What a federated method is.

A method is written for ONE client; the engine adds the client axis. It is a
tuple of pure functions that close over everything static. Code that methods
share is in `blocks`.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import jax
import jax.numpy as jnp

from quped_jax.data.federation import ClientData
from quped_jax.methods import by_precision
from quped_jax.methods.exchange import Aggregate as Aggregate
from quped_jax.methods.exchange import ClientResult as ClientResult
from quped_jax.methods.exchange import ClientSpec as ClientSpec
from quped_jax.methods.exchange import Collected as Collected
from quped_jax.methods.exchange import Context as Context
from quped_jax.methods.exchange import GlobalModel as GlobalModel
from quped_jax.methods.exchange import Models as Models
from quped_jax.methods.exchange import Predictor as Predictor
from quped_jax.models import Model

WEIGHTINGS = ("uniform", "samples")


def traced(
  default: float, *, off_at_zero: bool = False, later: bool = False
) -> float:
  """A number among a method's options that compiled programs take as data.

  Then runs with different values run the same program. `make` may be given such
  an option as a tracer, on which no Python code can branch; checks of options
  only ever see numbers.

  Args:
    default: its value if nothing is said.
    off_at_zero: whether `make` asks if the option is zero, which turns
      something off: with zero it is part of the program.
    later: whether there are records of runs from before the option: its default
      is what they did.

  Returns:
    A dataclass field; declared as what type checkers take for its value.
  """
  metadata = {"traced": True, "off_at_zero": off_at_zero, "later": later}
  field: Any = dataclasses.field(default=default, metadata=metadata)
  return field


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


class Decode(Protocol):
  """What the server reads in what a client sent."""

  def __call__(self, message: Any, /) -> Any:
    """Returns the message, as all functions of the server take it."""
    ...


class Differences(Protocol):
  """What a message is the difference from, array by array."""

  def __call__(self, download: Any, /) -> Any:
    """Returns a part of the download, a tree like a message."""
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


class Plausible(Protocol):
  """Whether an honest client could have sent a message."""

  def __call__(self, message: Any, samples: Any, /) -> Any:
    """Returns which parts may be true: bools, in a prefix of its tree.

    The server knows that the client has `samples` training samples.
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


class Center(Protocol):
  """An average of messages that tolerates a few false ones."""

  def __call__(self, messages: Any, sent: Any, /) -> Any:
    """Averages arrays `[slots, ...]` over the slots where `sent` is True."""
    ...


class Robust(Protocol):
  """What the server receives if a robust average takes the mean's place."""

  def __call__(
    self,
    server: Any,
    aggregates: dict[str, Aggregate],
    center: Center,
    context: Context,
    /,
  ) -> dict[str, Aggregate]:
    """Makes the aggregates that `ServerUpdate` gets.

    Args:
      server: the server's state.
      aggregates: by cohort; all messages whole in `collected`, and sums of the
        weights, but of nothing else.
      center: the average.
      context: the server's.
    """
    ...


class Variants(Protocol):
  """The models on which a client is evaluated, by name.

  By custom "personalized", "quantized" and "global", of which a method has some
  or all. Other names are free, but for those of other columns of `clients.csv`;
  their models are of full precision, as all but "quantized" are. A client whose
  primary variant is "global" has no model file of its own.
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


class ServerMoves(Protocol):
  """What the server moves by a step size of its own."""

  def __call__(self, server: Any, /) -> Any:
    """Returns a tree of parameters."""
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


def as_sent(message: Any) -> Any:
  """The default `decode`: a message says what was sent."""
  return message


def anything(message: Any, samples: Any) -> bool:
  """The default `plausible`: any message that is finite may be true."""
  del message, samples
  return True


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
  decode: Decode
  receive: Receive
  collect: Collect | None
  plausible: Plausible
  averages: bool
  differences: Differences | None
  robust: Robust | None
  server_moves: ServerMoves | None
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
    decode: `message -> message`, what the server reads in what was sent, before
      anything else; bytes are those of what was sent.
    receive: `(server, message, weight, context, cohort) -> Aggregate`.
    collect: `(message, context) -> part`, which `server_update` finds in
      `Aggregate.collected`; None to collect nothing.
    plausible: `(message, samples) -> bools`; a client whose message is not
      plausible in all of its parts is left out, as one that diverges is.
    averages: whether messages are differences of one model (a GlobalModel or
      a part of one) of which the server uses only the `mean_message` over all
      cohorts, so that another average can replace the mean. The download, or
      its field `model`, has the same arrays.
    differences: `download -> tree`, from which messages are differences, array
      by array, so that they can be compressed, for a method that does not just
      average; None if messages are anything else.
    robust: `(server, {cohort: aggregate}, center, context) -> {cohort:
      aggregate}`, by which a median or a trimmed mean can replace what the
      server computes from sums, for a method that does not just average.
    server_moves: `server -> parameters`, those that the server moves by a step
      size of its own, so that it can be the server that diverges; None if there
      are none.
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
  decode: Decode = as_sent
  receive: Receive = weighted_sum
  collect: Collect | None = None
  plausible: Plausible = anything
  averages: bool = False
  differences: Differences | None = None
  robust: Robust | None = None
  server_moves: ServerMoves | None = None
  global_model: GlobalModelOf | None = None
  start: Start | None = None
  begin_finetune: BeginFinetune | None = None

  def replace(self, **changes: Unpack[Changes]) -> "FederatedMethod":
    """The method with some fields replaced: a typed `_replace`."""
    return self._replace(**changes)
