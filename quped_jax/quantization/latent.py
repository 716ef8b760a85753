r"""The step of estimators that train one model, through latent weights.

The network runs at m(u), a map of the latent weights u and of the levels c. The
gradient that is taken there reaches u as the estimator says, mostly as if m
were the identity:

.. math::
  u \leftarrow u - \eta \, \frac{\partial m}{\partial u} \nabla f(m(u))

The model that is evaluated and kept is that of the nearest levels, Q_c(u), with
the batch-norm statistics of m(u) until others are estimated. Learners in full
precision have m(u) = u and train as without codebooks.

Cost of a step in forward passes (a backward pass counts as two): 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree
from quped_jax.quantization.alternating import (
  Alternating,
  Learner,
  corrected,
  has_codebooks,
)
from quped_jax.quantization.codebook import Codebook
from quped_jax.quantization.fine_tuning import make_finetune_step
from quped_jax.quantization.trained_levels import CENTERS, TrainedLevels
from quped_jax.quantization.views import View


class Estimator(NamedTuple):
  """What a step takes from the estimator.

  Attributes:
    map: `(u, codebook, numbers, rates) -> m(u)` of one tensor with levels,
      differentiable in u, and in the numbers if levels are trained by gradient.
      `numbers` are those of the codebook that are trained.
    levels: which numbers of the codebooks are trained.
    follow: `(u, codebook) -> Codebook`, the levels after a step, where they
      follow the weights; None if they do not.
    pull: what is done to the weights after the optimizer's step.
  """

  map: Callable[..., jax.Array]
  levels: TrainedLevels = CENTERS
  follow: Callable[[jax.Array, Codebook], Codebook] | None = None
  pull: optax.GradientTransformation = optax.identity()


def following(
  rule: str,
) -> Callable[[jax.Array, Codebook], Codebook] | None:
  """How levels follow the weights: `Estimator.follow`.

  By the rules "uniform" and "lsbq" they are fitted anew in every step: it takes
  a few passes over the weights. By any other rule they stay as they began.
  """
  if rule not in ("uniform", "lsbq"):
    return None
  return lambda u, codebook: codebook_lib.refit(u, codebook, rule)


def make_latent(
  optimizer: optax.GradientTransformationExtraArgs,
  centers_optimizer: optax.GradientTransformationExtraArgs,
  estimator: Estimator,
  *,
  deterministic: bool,
  most: int | None,
  mixed: bool,
) -> Alternating:
  """Makes the step of an estimator with latent weights.

  Args:
    optimizer: of the parameters.
    centers_optimizer: of the levels.
    estimator: what maps the weights, and what moves the levels.
    deterministic: see `make_alternating`, as are all that follow.
    most: likewise.
    mixed: likewise.
  """
  optimizer_chain = optax.chain(optimizer, estimator.pull)
  levels_chain = optax.chain(centers_optimizer, optax.identity())
  levels = estimator.levels
  finetune_step = make_finetune_step(
    optimizer, centers_optimizer, levels, deterministic=deterministic
  )

  def mapped(params, codebooks, numbers, rates):
    def visit(codebook, u, own):
      codebook = codebook.in_room()
      if not codebook.max_levels:
        return u
      at = estimator.map(u, codebook, own, rates)
      return jnp.where(codebook.levels > 0, at, u)

    return codebook_tree.map_codebooks(
      visit, codebooks, params, numbers, otherwise=lambda u, _: u
    )

  def stats_of(learner):
    quantized = has_codebooks(learner.codebooks)
    return learner.quantized_stats if quantized else learner.stats

  def init(params, stats, codebooks):
    codebook_tree.check_most(codebooks, most)
    return Learner(
      params=params,
      codebooks=codebooks,
      stats=stats,
      quantized_stats=stats if has_codebooks(codebooks) else None,
      opt_state=optimizer_chain.init(params),
      centers_opt_state=levels_chain.init(levels.get(codebooks)),
    )

  def current(learner, rates=None):
    params = learner.params
    if learner.assignments is None:
      codebooks = codebook_tree.in_program(
        learner.codebooks, most=most, mixed=mixed
      )
      params = mapped(params, codebooks, levels.get(codebooks), rates)
    return params, stats_of(learner)

  def views(learner, rates=None):
    return [View(*current(learner, rates), True)]

  def step(learner, objective, rates, penalty=None, correction=None):
    if learner.assignments is not None:
      return finetune_step(learner, objective, rates, penalty, correction)
    codebooks = codebook_tree.in_program(
      learner.codebooks, most=most, mixed=mixed
    )

    def loss_fn(params, numbers):
      own = levels.put(codebooks, numbers)
      params = mapped(params, own, numbers, rates)
      loss, stats = objective(params, stats_of(learner))
      total = loss if penalty is None else loss + penalty(params)
      return total, (loss, stats)

    numbers = levels.get(codebooks)
    (grads, level_grads), (loss, stats) = jax.grad(
      loss_fn, argnums=(0, 1), has_aux=True
    )(learner.params, numbers)
    updates, opt_state = optimizer_chain.update(
      corrected(grads, correction),
      learner.opt_state,
      learner.params,
      codebooks=codebooks,
      learning_rate=rates.learning_rate,
      strength=rates.strength,
    )
    level_updates, levels_state = levels_chain.update(
      level_grads,
      learner.centers_opt_state,
      numbers,
      codebooks=codebooks,
      learning_rate=rates.centers_learning_rate,
    )
    params = optax.apply_updates(learner.params, updates)
    codebooks = levels.put(
      codebooks, optax.apply_updates(numbers, level_updates)
    )
    learner = learner._replace(
      params=params,
      codebooks=codebook_tree.with_static(
        settled(codebooks, params), learner.codebooks
      ),
      stats=stats,
      quantized_stats=stats if has_codebooks(codebooks) else None,
      opt_state=opt_state,
      centers_opt_state=levels_state,
    )
    return learner, loss

  def settled(codebooks, params):
    """The codebooks in order, and where they follow weights, at these."""
    follow = estimator.follow
    if follow is None:
      return codebook_tree.map_codebooks(levels.settle, codebooks)
    return codebook_tree.map_codebooks(
      lambda codebook, u: follow(u, codebook), codebooks, params
    )

  return Alternating(init, step, views, current, gradients=1, latent=True)
