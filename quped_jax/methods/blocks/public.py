"""Building blocks of distillation on the public set.

Clients digest soft targets by alternating steps, so quantized clients can too;
the server distils them into a model with an optimizer of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks, random_keys
from quped_jax.data.federation import ClientData, Federation, PublicSet
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  local_steps,
  predictions,
  requirements,
  server,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, pass_keys, training_pass
from quped_jax.quantization import optimizers
from quped_jax.quantization.alternating import Learner

# `(logits, targets) -> scalar`, both `[batch, ...]`
TargetLoss = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
  """Settings of methods whose clients send outputs on public samples.

  Attributes:
    method: the method's name, for errors.
    public_samples: how many public samples are drawn each round; 0 for all.
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  method: ClassVar[str]

  public_samples: int = 0
  weighting: str = "uniform"

  def __post_init__(self):
    checks.at_least(f"{self.method}.public_samples", self.public_samples, 0)
    checks.choice(f"{self.method}.weighting", self.weighting, api.WEIGHTINGS)


@dataclasses.dataclass(frozen=True)
class ExchangeOptions(AnswerOptions):
  """Settings of those that digest them, in addition to `AnswerOptions`.

  Attributes:
    digest_steps: steps per round in which a client distils what all clients
      said in the previous round.
  """

  digest_steps: int = 5

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(f"{self.method}.digest_steps", self.digest_steps, 0)


class Download(NamedTuple):
  """The server's targets on public samples, and the samples to answer next.

  Attributes:
    targets: `[samples, classes]`, from the previous round; all zero if there
      are none.
    rows: int32 `[samples]`, the public samples of the targets; None for all.
    next_rows: the public samples of this round; None for all.
  """

  targets: jax.Array
  rows: Any
  next_rows: Any


def draw_rows(key: jax.Array, size: int, samples: int) -> jax.Array | None:
  """Draws a random subset of the public set.

  Args:
    key: the key of the server or of a round; a subkey of it is used.
    size: size of the public set.
    samples: how many to draw; 0 for all.

  Returns:
    int32 `[samples]`, all different; None for all samples in order.
  """
  if not samples:
    return None
  key = jax.random.fold_in(key, random_keys.PUBLIC_ROWS)
  return jax.random.permutation(key, size)[:samples].astype(jnp.int32)


def first_download(
  key: jax.Array, size: int, samples: int, targets: Any
) -> Download:
  """What clients receive at the start: no targets, and what to answer.

  Args:
    key: see `draw_rows`.
    size: likewise.
    samples: likewise.
    targets: those that say that there are none.
  """
  rows = draw_rows(key, size, samples)
  return Download(targets, rows, rows)


def next_download(
  download: Download, key: jax.Array, size: int, samples: int, targets: Any
) -> Download:
  """What clients receive after a round in which they answered.

  Args:
    download: what they received before it.
    key: see `draw_rows`.
    size: likewise.
    samples: likewise.
    targets: of the samples that they answered.
  """
  return Download(targets, download.next_rows, draw_rows(key, size, samples))


def check_samples(field: str, samples: int, public: PublicSet) -> None:
  """Raises a ValueError if a subset is larger than the public set."""
  if samples > public.size:
    raise ValueError(
      f"{field}={samples}: must be at most public_size={public.size}"
    )


def sizes(
  options: AnswerOptions, federation: Federation, *, labelled: bool
) -> tuple[int, int]:
  """The size of the public set, and how many samples of it a round draws.

  Args:
    options: the method's settings; 0 samples means all.
    federation: has the public set.
    labelled: whether the method needs labels.

  Raises:
    ValueError: no public set, one without the required labels, or one smaller
      than `public_samples`.
  """
  public = requirements.check_public(
    options.method, federation, labelled=labelled
  )
  samples = options.public_samples
  check_samples(f"{options.method}.public_samples", samples, public)
  return public.size, samples


def with_targets(
  public: PublicSet, targets: jax.Array, rows: jax.Array | None
) -> ClientData:
  """Public samples with soft targets in place of labels.

  Args:
    public: the public set.
    targets: `[rows, classes]`.
    rows: int32 `[rows]`, the samples of the targets; None for all.
  """
  if rows is not None:
    everyone = jnp.zeros((public.size, *targets.shape[1:]), targets.dtype)
    targets = everyone.at[rows].set(targets)
  return public.data(labels=targets, rows=rows)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean cross entropy of logits to probabilities, both `[batch, classes]`."""
  return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def soft_divergence(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean divergence from probabilities to logits, both `[batch, classes]`.

  It differs from `soft_cross_entropy` by a constant, and is zero where the
  targets are learned.
  """
  entropy = jnp.sum(jax.scipy.special.entr(targets), axis=-1)
  return soft_cross_entropy(logits, targets) - jnp.mean(entropy)


def digest(
  training: Training,
  model: Model,
  learner: Learner,
  data: ClientData,
  context: api.Context,
  key: jax.Array,
  *,
  loss: TargetLoss,
  steps: int,
  counts: jax.Array | bool = True,
) -> Learner:
  """A client's alternating steps on public samples.

  Args:
    training: has the batch size and the alternating step.
    model: the learner's network.
    learner: the learner before the steps.
    data: public samples with their targets.
    context: the client's context, for its rates.
    key: random key for the batches.
    loss: loss of logits and targets.
    steps: number of steps, static.
    counts: bool `[]`; if False, nothing is digested, and no time is spent
      unless another client that runs at the same time digests.

  Returns:
    The learner after the steps.
  """
  if not steps:
    return learner
  positions = data.draw(key, steps, training.batch_size)
  drawn = positions, pass_keys(model, key, steps)

  def body(index, learner):
    position, own = jax.tree.map(lambda x: x[index], drawn)
    batch = data.batch(position)._replace(key=own)

    def objective(params, stats):
      logits, stats = training_pass(model, params, stats, batch)
      return loss(logits, batch.labels), stats

    return training.alternating.step(learner, objective, context.rates)[0]

  return jax.lax.fori_loop(0, jnp.where(counts, steps, 0), body, learner)


def client_round(
  training: Training,
  model: Model,
  learner: Learner,
  download: Download,
  data: ClientData,
  context: api.Context,
  *,
  loss: TargetLoss,
  digest_steps: int,
) -> tuple[Learner, jax.Array, dict[str, jax.Array]]:
  """A client's round: it digests, trains, and predicts the public samples.

  Args:
    training: how it trains.
    model: the learner's network.
    learner: the learner before the round.
    download: the targets, and the public samples of this round.
    data: the client's own samples.
    context: its context.
    loss: loss of logits and targets.
    digest_steps: steps on the targets; skipped if these are all zero, which
      means that there are none yet.

  Returns:
    The learner, the logits `[samples, classes]` of its weights in training on
    this round's public samples, and the metrics of the training.
  """
  learner = digest(
    training,
    model,
    learner,
    with_targets(context.public, download.targets, download.rows),
    context,
    jax.random.fold_in(context.key, random_keys.PUBLIC_DISTILLATION),
    loss=loss,
    steps=digest_steps,
    counts=jnp.any(download.targets != 0),
  )
  learner, metrics = local_steps.train(
    training,
    learner,
    lambda batch: training.label_objective(model, batch),
    data,
    context,
  )
  asked = context.public.data(rows=download.next_rows)
  params, stats = training.alternating.current(learner, context.rates)
  logits = predictions.predict(model, params, stats, asked)
  return learner, logits, metrics


def distill(
  model: Model,
  shared: api.GlobalModel,
  data: ClientData,
  key: jax.Array,
  options: Any,
  *,
  loss: TargetLoss,
  batch_size: int,
  last: int = 1,
) -> api.GlobalModel:
  """The server's distillation of soft targets into a model.

  Args:
    model: the network.
    shared: the model before the steps.
    data: public samples with their targets.
    key: random key for the batches.
    options: a method's settings, with the fields distill_steps,
      distill_optimizer and distill_learning_rate; the optimizer starts afresh.
    loss: loss of logits and targets.
    batch_size: samples per step.
    last: how many of the last models the result is the mean of.

  Returns:
    The model after the steps.
  """
  if not options.distill_steps:
    return shared
  optimizer = optimizers.base_optimizer(options.distill_optimizer)

  def objective(params, stats, drawn):
    position, own = drawn
    batch = data.batch(position)._replace(key=own)
    logits, stats = training_pass(model, params, stats, batch)
    return loss(logits, batch.labels), stats

  return server.descend(
    optimizer,
    options.distill_learning_rate,
    objective,
    shared,
    optimizer.init(shared.params),
    (
      data.draw(key, options.distill_steps, batch_size),
      pass_keys(model, key, options.distill_steps),
    ),
    last=last,
  )[0]
