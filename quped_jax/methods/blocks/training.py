"""How clients train: the static part that all methods have in common."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax.data.federation import Batch, ClientData
from quped_jax.methods.api import Context, Predictor
from quped_jax.methods.blocks import distill, losses
from quped_jax.models import Model, pass_keys, training_pass
from quped_jax.quantization import alternating, codebook_tree
from quped_jax.quantization.alternating import Alternating, Learner, Objective


class Training(NamedTuple):
  """How clients train; static, and the same for all methods.

  Attributes:
    steps: local steps per round, one batch each; of clients that take steps of
      their own, the most.
    batch_size: samples per batch.
    alternating: the step for weights and levels.
    shared_optimizer: the optimizer of downloaded models; its state starts
      afresh each round, and `update` takes `learning_rate`.
    max_levels: length of codebooks; None if no client is quantized.
    granularity: granularity of codebooks, "tensor" or "channel".
    outer_level: as in `init_codebook`.
    initial_levels: as in `init_codebook`.
    recalibration_batches: number of training batches on which the quantized
      model's batch-norm statistics are re-estimated before it is evaluated.
    loss: `(logits, labels) -> scalar`, the mean over a batch; methods call it,
      whatever it is.
    divergence: `(teacher, student, temperature, temperature_on=...) -> scalar`,
      of outputs `[batch, classes]`: what distillation minimises where this is
      the loss. It is differentiable in both. See `distill`.
    classes: whether labels are classes, of which the outputs are logits.
    smoothed: whether the loss asks for some of every class in each label.
    momentum: beta of the clients' optimizer, if a client goes as far as a sum
      of its gradients says: SGD has 0; None for Adam or clipped weights.
    uneven: whether clients take steps of their own, see `Context.own_steps`.
  """

  steps: int
  batch_size: int
  alternating: Alternating
  shared_optimizer: optax.GradientTransformationExtraArgs
  max_levels: int | None
  granularity: str = "tensor"
  outer_level: float | None = None
  initial_levels: str = "range"
  recalibration_batches: int = 10
  loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.cross_entropy
  divergence: Callable[..., jax.Array] = distill.kl_divergence
  classes: bool = True
  smoothed: bool = False
  momentum: float | None = None
  uneven: bool = False

  @property
  def precisions(self) -> int:
    """The bits of the most precise quantized client; 0 if there is none."""
    return 0 if self.max_levels is None else self.max_levels.bit_length() - 1

  @property
  def gradients_per_step(self) -> int:
    """Gradient evaluations of an alternating step."""
    return 1 if self.max_levels is None else self.alternating.gradients

  def learner(
    self, model: Model, params: Any, stats: Any, bits: Any
  ) -> Learner:
    """A learner that starts from a model, with codebooks fitted to it."""
    return self.alternating.init(
      params, stats, self.codebooks(model, params, bits)
    )

  def quantizes(self, model: Model, params: Any) -> bool:
    """Whether any client may quantize anything of a model."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [codebook_tree.path_name(path) for path, _ in leaves]
    return self.max_levels is not None and any(map(model.is_quantized, names))

  def codebooks(self, model: Model, params: Any, bits: Any) -> Any:
    """Codebooks fitted to a model; none if nothing in it is quantized."""
    if not self.quantizes(model, params):
      return codebook_tree.full_precision(params)
    return codebook_tree.init_codebooks(
      params,
      model.is_quantized,
      bits,
      self.max_levels,
      granularity=self.granularity,
      outer_level=self.outer_level,
      initial_levels=self.initial_levels,
    )

  def label_objective(self, model: Model, batch: Batch) -> Objective:
    """The loss of a model on a batch's labels."""

    def objective(params, stats):
      logits, stats = training_pass(model, params, stats, batch)
      return self.loss(logits, batch.labels), stats

    return objective

  def quantized_variant(
    self, model: Model, learner: Learner, data: ClientData, context: Context
  ) -> Predictor:
    """The hard-quantized model, with its own re-estimated statistics."""
    params, stats = alternating.deployed(learner)
    quantized = alternating.has_codebooks(learner.codebooks)
    if quantized and jax.tree.leaves(stats) and self.recalibration_batches:
      positions = data.draw(
        context.key, self.recalibration_batches, self.batch_size
      )
      fresh = _batch_statistics(
        model,
        params,
        stats,
        data,
        (positions, pass_keys(model, context.key, positions.shape[0])),
      )
      counts = codebook_tree.is_quantized(learner.codebooks)
      stats = jax.tree.map(
        lambda new, old: jnp.where(counts, new, old), fresh, stats
      )
    return params, stats, model


def _batch_statistics(model, params, like, data, drawn) -> Any:
  """Running statistics from the given batches alone.

  After k batches a running average that started from zero is too small by the
  factor 1 - m^k. Its momentum m is the share of the old value that one update
  keeps. A statistic that is no such average stays as it is. The batches come as
  `drawn`, their positions and their keys.
  """

  def update(stats, drawn):
    position, key = drawn
    batch = data.batch(position)._replace(key=key)
    return training_pass(model, params, stats, batch)[1], None

  floats, join = _floats(like)

  def after(floats):
    first = jax.tree.map(lambda x: x[0], drawn)
    return _floats(update(join(floats), first)[0])[0]

  momenta = _momenta(after, floats)
  averaged = [(m >= 0) & (m < 1) for m in momenta]
  start = [jnp.where(a, 0.0, x) for a, x in zip(averaged, floats, strict=True)]
  total, _ = jax.lax.scan(update, join(start), drawn)

  def estimate(total, momentum, averaged, old):
    share = 1 - jnp.where(averaged, momentum, 0.0) ** drawn[0].shape[0]
    return jnp.where(averaged, total / share, old)

  found = map(estimate, _floats(total)[0], momenta, averaged, floats)
  return join(list(found))


def _momenta(after: Callable[[list], list], floats: list) -> list:
  """The share of each statistic that an update keeps: its derivative.

  Args:
    after: the statistics after an update, given those before it.
    floats: the statistics before it.
  """

  def derivatives(tangents):
    return jax.jvp(after, (floats,), (tangents,))[1]

  # One that is frozen, or that counts, keeps all. It may enter the others
  # through the features that it normalises, so it is held still for them.
  kept = [m == 1 for m in derivatives([jnp.ones_like(x) for x in floats])]
  found = derivatives(
    [1.0 - k.astype(x.dtype) for k, x in zip(kept, floats, strict=True)]
  )
  return [jnp.where(k, 1.0, m) for k, m in zip(kept, found, strict=True)]


def _floats(tree: Any) -> tuple[list[jax.Array], Callable[[list], Any]]:
  """The arrays of floats in a tree, and how to put others in their place."""
  leaves, structure = jax.tree.flatten(tree)
  places = [
    i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)
  ]

  def join(floats):
    new = list(leaves)
    for place, x in zip(places, floats, strict=True):
      new[place] = x.astype(leaves[place].dtype)
    return structure.unflatten(new)

  return [leaves[i] for i in places], join
