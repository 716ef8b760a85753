"""What a federated method is, and the building blocks that methods share.

A method is written for ONE client; the engine adds the client axis. It is a
tuple of pure functions that close over what is static.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax.data.federation import Batch, ClientData
from quped_jax.methods.blocks import distill
from quped_jax.models import Model
from quped_jax.quantization import alternating
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization.alternating import Alternating, Learner, Objective

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


def weighted_sum(
  server: Any, message: Any, weight: Any, context: Context | None, cohort: str
) -> Aggregate:
  """The default `receive`: weight times message, and the weight."""
  del server, context, cohort
  weight = jnp.asarray(weight, jnp.float32)
  total = jax.tree.map(lambda m: (weight * m).astype(m.dtype), message)
  return Aggregate(total, weight)


class FederatedMethod(NamedTuple):
  """A federated learning method, as pure functions for one client.

  Attributes:
    init_server: `(key, inputs) -> server`; inputs `[1, ...]` give the shape.
    init_client: `(key, inputs, server, client_id, spec, cohort) -> client`,
      the state that never leaves the client. All clients get the same key:
      they start from the same weights unless they fold in their id.
    broadcast: `(server, client_id, cohort) -> download`.
    client_update: `(download, client, data, context, cohort) -> ClientResult`.
    server_update: `(server, {cohort: aggregate}, context) -> server`; a total
      weight of zero leaves the server unchanged.
    variants: `(server, client, data, context, cohort) -> {name: (params,
      stats, model)}`, the models to evaluate: "personalized", "quantized",
      "global", those that exist.
    primary_variant: the variant that comparisons report.
    gradients: gradient evaluations of a client per round: a forward and a
      backward pass of one network on one batch each. None if that is not
      known, for a method without a budget of gradients.
    receive: `(server, message, weight, context, cohort) -> Aggregate`, at the
      server, per client, summed over the clients as it goes; the context is
      the server's.
    collect: `message -> part`, what `server_update` gets of every message
      apart, as `Aggregate.collected`, at the price of its memory times the
      clients; None for nothing.
    averages: whether messages are differences of one model, a GlobalModel or
      a part of one, of which the server takes the `mean_message` over all
      cohorts and nothing else: then it can take another average.
    global_model: `(server, cohort) -> (params, stats, model)`, from which a new
      client of that cohort would start; None if there is no such model.
    begin_finetune: `client -> client`, freezes the assignment of
      weights to levels; None if the method has no fine-tuning phase.
  """

  init_server: Callable[[jax.Array, jax.Array], Any]
  init_client: Callable[..., Any]
  broadcast: Callable[..., Any]
  client_update: Callable[..., ClientResult]
  server_update: Callable[..., Any]
  variants: Callable[..., dict[str, tuple[Any, Any, Model]]]
  primary_variant: str
  gradients: float | None = None
  receive: Callable[..., Aggregate] = weighted_sum
  collect: Callable[[Any], Any] | None = None
  averages: bool = False
  global_model: Callable[..., tuple[Any, Any, Model]] | None = None
  begin_finetune: Callable[..., Any] | None = None


class Training(NamedTuple):
  """How clients train, common to all methods and static.

  Attributes:
    steps: local steps per round, one batch each.
    batch_size: samples per batch.
    alternating: the step for weights and levels.
    shared_optimizer: of downloaded models; its state starts afresh each
      round, and `update` takes `learning_rate`.
    max_levels: length of codebooks; None if no client is quantized.
    granularity: of codebooks, "tensor" or "channel".
    outer_level: as in `init_codebook`.
    recalibration_batches: on how many training batches the quantized model's
      batch-norm statistics are estimated again before it is evaluated.
    loss: `(logits, labels) -> scalar`.
    plain_sgd: whether the clients' optimizer is SGD without momentum, weight
      decay and clipping.
  """

  steps: int
  batch_size: int
  alternating: Alternating
  shared_optimizer: optax.GradientTransformationExtraArgs
  max_levels: int | None
  granularity: str = "tensor"
  outer_level: float | None = None
  recalibration_batches: int = 10
  loss: Callable[[jax.Array, jax.Array], jax.Array] = distill.cross_entropy
  plain_sgd: bool = True

  @property
  def gradients_per_step(self) -> int:
    """Gradient evaluations of an alternating step."""
    return 1 if self.max_levels is None else 3

  def learner(
    self, model: Model, params: Any, stats: Any, bits: Any
  ) -> Learner:
    """A learner that starts from a model, its codebooks fitted to it."""
    return self.alternating.init(
      params, stats, self.codebooks(model, params, bits)
    )

  def codebooks(self, model: Model, params: Any, bits: Any) -> Any:
    """Codebooks fitted to a model's parameters; none if nobody quantizes it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [codebook_lib.path_name(path) for path, _ in leaves]
    if self.max_levels is None or not any(map(model.is_quantized, names)):
      return codebook_lib.full_precision(params)
    return codebook_lib.init_codebooks(
      params,
      model.is_quantized,
      bits,
      self.max_levels,
      granularity=self.granularity,
      outer_level=self.outer_level,
    )

  def label_objective(self, model: Model, batch: Batch) -> Objective:
    """The loss of a model on a batch's labels."""

    def objective(params, stats):
      logits, stats = model.apply(params, stats, batch.inputs, True)
      return self.loss(logits, batch.labels), stats

    return objective

  def quantized_variant(
    self, model: Model, learner: Learner, data: ClientData, context: Context
  ) -> tuple[Any, Any, Model]:
    """The hard-quantized model, its statistics estimated again on its own."""
    params, stats = alternating.deployed(learner)
    quantized = alternating.has_codebooks(learner.codebooks)
    if quantized and jax.tree.leaves(stats) and self.recalibration_batches:
      positions = data.draw(
        context.key, self.recalibration_batches, self.batch_size
      )
      fresh = _batch_statistics(model, params, stats, data, positions)
      counts = codebook_lib.is_quantized(learner.codebooks)
      stats = jax.tree.map(
        lambda new, old: jnp.where(counts, new, old), fresh, stats
      )
    return params, stats, model


def _batch_statistics(model, params, like, data, positions) -> Any:
  """Running statistics as the given batches alone make them.

  A running average that starts from zero is too small by 1 - m^k after k
  batches, m its momentum: the share that a start from one keeps of itself.
  """
  zero = jax.tree.map(jnp.zeros_like, like)
  one = jax.tree.map(jnp.ones_like, like)

  def update(stats, position):
    inputs = data.batch(position).inputs
    return model.apply(params, stats, inputs, True)[1], None

  momentum = jax.tree.map(
    jnp.subtract, update(one, positions[0])[0], update(zero, positions[0])[0]
  )
  total, _ = jax.lax.scan(update, zero, positions)
  return jax.tree.map(
    lambda t, m: t / (1 - m ** positions.shape[0]), total, momentum
  )


def local_steps(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]],
  carry: Any,
  data: ClientData,
  context: Context,
  training: Training,
  *,
  steps: int | None = None,
  beside: Any = None,
  batches: int = 1,
) -> tuple[Any, dict[str, jax.Array]]:
  """Runs a client's local steps of one round, each on a batch of its own.

  Args:
    step: `(carry, batch) -> (carry, metrics)`, or `(carry, batch, beside)`.
    carry: what the steps update.
    data: the client's samples.
    context: its key, and how many steps count.
    training: number of steps and size of the batches.
    steps: another number of steps than that.
    beside: what is known of the client's training samples beside their labels,
      arrays `[max_count, ...]`; the step is given those of its batch.
    batches: how many batches a step gets, one after the other in one Batch.

  Returns:
    The carry after the last step, and the metrics' means over the steps.
  """
  steps = training.steps if steps is None else steps
  draw_key, augment_key = jax.random.split(context.key)
  positions = data.draw(draw_key, steps * batches, training.batch_size)
  positions = positions.reshape(steps, batches * training.batch_size)

  def body(carry, xs):
    index, position = xs
    key = jax.random.fold_in(augment_key, index)
    given = [data.train_batch(key, position)]
    if beside is not None:
      given.append(jax.tree.map(lambda x: x[position], beside))
    new, metrics = step(carry, *given)
    if context.num_steps is not None:
      counts = index < context.num_steps
      new = jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, carry)
    return new, metrics

  indices = jnp.arange(steps, dtype=jnp.int32)
  carry, metrics = jax.lax.scan(body, carry, (indices, positions))
  return carry, jax.tree.map(jnp.mean, metrics)


def client_weight(weighting: str, data: ClientData) -> Any:
  """A client's weight in the mean: 1, or its number of training samples."""
  return 1.0 if weighting == "uniform" else data.train.count


def tree_difference(new: Any, old: Any) -> Any:
  """new - old, leaf by leaf."""
  return jax.tree.map(jnp.subtract, new, old)


def squared_distance(first: Any, second: Any) -> jax.Array:
  """Sum over all leaves of the squared differences of two trees."""
  squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), first, second)
  return sum(jax.tree.leaves(squares), start=jnp.zeros(()))


def mean_message(aggregates: Mapping[str, Aggregate], like: Any) -> Any:
  """Weighted mean of the messages of all cohorts; zero if nobody sent one.

  Args:
    aggregates: the sums that the server received, by cohort.
    like: a tree with the structure of a message.

  Returns:
    A tree like `like`.
  """
  weight = sum(a.weight for a in aggregates.values())
  totals = [a.total for a in aggregates.values()]

  def mean(leaf, *parts):
    share = sum(parts) / jnp.where(weight > 0, weight, 1.0)
    return jnp.where(weight > 0, share, 0.0).astype(leaf.dtype)

  return jax.tree.map(mean, like, *totals)


def if_heard(aggregates: Mapping[str, Aggregate], new: Any, old: Any) -> Any:
  """The new server where a message has weight, the old one otherwise."""
  heard = sum(a.weight for a in aggregates.values()) > 0
  return jax.tree.map(lambda a, b: jnp.where(heard, a, b), new, old)


def check_public(method: str, federation: Any, *, labelled: bool) -> None:
  """Raises a ValueError unless there is a public set, with labels if need be.

  Args:
    method: that needs it.
    federation: whose `public` it is; None is none.
    labelled: whether the method needs labels.
  """
  public = getattr(federation, "public", None)
  if public is None:
    raise ValueError(
      f"public_size=0: must be positive with method={method!r}, which needs a "
      "public set"
    )
  if labelled and not public.labelled:
    raise ValueError(
      f"public_labelled=False: must be True with method={method!r}, which "
      "learns from the labels of the public set"
    )


def check_full_precision(method: str, training: Training, reason: str) -> None:
  """Raises a ValueError unless all clients have full precision."""
  if training.max_levels is not None:
    raise ValueError(
      f"bits: must be {codebook_lib.FULL_PRECISION} for all clients with "
      f"method={method!r}: {reason}"
    )


def check_same_model(method: str, models: Models) -> None:
  """Raises a ValueError unless all cohorts have the global architecture."""
  for cohort, model in models.clients.items():
    if model is models.shared:
      continue
    if len(models.clients) > 1:
      raise ValueError(
        "client_types: must be of one network (as must be candidates), the "
        f"global model's, with method={method!r}, which averages weights; got "
        f"{', '.join(models.clients)}"
      )
    raise ValueError(
      f"shared_model={models.shared.name!r}: must be the network of the "
      f"clients, {model.name!r} (cohort {cohort!r}), of the same widths, "
      f"since {method} averages weights (beside client_types it is model by "
      "default)"
    )
