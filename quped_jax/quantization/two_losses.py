r"""The alternating proximal step, of the estimators "soft" and "hard".

One implementation serves a single learner and every client of a federation.
With an objective f of the model's parameters (it may include a teacher), the
first phase minimises

.. math:: f(x) + f(\tilde Q_c(x)) + \lambda R(x, c)

by alternating proximal gradient steps on one batch. In the fine-tuning phase
the index k(i) of each weight's level is frozen, the model is c[k(i)], and
training continues for the levels and the parameters that are not quantized.

That is the soft estimator. With the hard one, which is that of the released
code, the quantized model is that of the nearest levels, Q_c(x), and trains the
levels alone: all parameters, the biases too, get the gradient of f(x).

Cost of a step in forward passes (a backward pass counts as two): in the first
phase 9, namely 3 for f(x), 3 for f of the quantized model and, to update the
levels, 3 for the same at the new x; in the fine-tuning phase, and without
codebooks, 3. The soft quantizer runs twice per step, each proximal map once.
With the hard estimator 7: the first pass through the quantized model only
updates its batch-norm statistics; where there are none, the compiler drops it.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
"""

import jax
import jax.numpy as jnp
import optax

from quped_jax.quantization import (
  alternating,
  codebook_tree,
  levels_in_use,
  soft_quantizer,
  transforms,
)
from quped_jax.quantization.alternating import (
  Alternating,
  Learner,
  corrected,
  has_codebooks,
)
from quped_jax.quantization.fine_tuning import make_finetune_step
from quped_jax.quantization.trained_levels import CENTERS
from quped_jax.quantization.views import View, where_used


def make_two_losses(
  optimizer: optax.GradientTransformationExtraArgs,
  centers_optimizer: optax.GradientTransformationExtraArgs,
  *,
  estimator: str,
  sharpness: float,
  sharpness_unit: str,
  norm: str,
  center_prox: str,
  deterministic: bool,
  most: int | None,
  mixed: bool,
) -> Alternating:
  """Makes the alternating proximal step; see `make_alternating`.

  Args:
    optimizer: of the parameters.
    centers_optimizer: of the levels.
    estimator: "soft" or "hard".
    sharpness: see `make_alternating`, as are all that follow.
    sharpness_unit: likewise.
    norm: likewise.
    center_prox: likewise.
    deterministic: likewise.
    most: likewise.
    mixed: likewise.
  """
  prox = optax.chain(optimizer, transforms.prox_quantize(norm=norm))
  centers_chain = optax.chain(
    centers_optimizer,
    transforms.prox_centers(
      norm=norm, method=center_prox, deterministic=deterministic
    ),
  )
  finetune_step = make_finetune_step(
    optimizer, centers_optimizer, CENTERS, deterministic=deterministic
  )
  hard = estimator == "hard"

  def quantize(params, codebooks):
    if hard:
      return codebook_tree.hard_quantize_tree(
        params, codebooks, deterministic=deterministic
      )
    return soft_quantizer.soft_quantize_tree(
      params,
      codebooks,
      sharpness,
      unit=sharpness_unit,
      deterministic=deterministic,
    )

  def init(params, stats, codebooks):
    codebook_tree.check_most(codebooks, most)
    quantized = has_codebooks(codebooks)
    return Learner(
      params=params,
      codebooks=codebooks,
      stats=stats,
      quantized_stats=stats if quantized else None,
      opt_state=prox.init(params),
      centers_opt_state=centers_chain.init(
        codebook_tree.get_centers(codebooks)
      ),
    )

  def known(learner):
    """The learner with what is static of its levels; and whether any count."""
    codebooks = codebook_tree.in_program(
      learner.codebooks, most=most, mixed=mixed
    )
    used = levels_in_use.in_use(codebook_tree.codebook_leaves(codebooks))
    return learner._replace(codebooks=codebooks), used

  def views(learner, rates=None):
    del rates  # They are the same throughout.
    if learner.assignments is not None:
      return [View(learner.params, learner.quantized_stats, True)]
    at_x = View(learner.params, learner.stats, True)
    learner, used = known(learner)
    if used is False:
      return [at_x]
    quantized = View(
      quantize(learner.params, learner.codebooks),
      learner.quantized_stats,
      codebook_tree.is_quantized(learner.codebooks),
      used,
    )
    return [at_x, quantized]

  def step(learner, objective, rates, penalty=None, correction=None):
    if learner.assignments is not None:
      return finetune_step(learner, objective, rates, penalty, correction)
    given = learner.codebooks
    learner, used = known(learner)
    params = learner.params
    grads, (loss, stats) = jax.grad(loss_at_x, has_aux=True)(
      params, objective, learner.stats
    )

    more, quantized_stats = where_used(
      used,
      lambda: jax.grad(quantized_loss, has_aux=True)(
        params, learner, objective, penalty
      ),
      lambda: (jax.grad(penalty or (lambda _: 0.0))(params), stats),
    )
    if used is not False or penalty is not None:
      grads = jax.tree.map(jnp.add, grads, more)
    updates, opt_state = prox.update(
      corrected(grads, correction),
      learner.opt_state,
      params,
      codebooks=learner.codebooks,
      learning_rate=rates.learning_rate,
      strength=rates.strength,
    )
    learner = learner._replace(
      params=optax.apply_updates(params, updates),
      stats=stats,
      opt_state=opt_state,
    )
    if has_codebooks(learner.codebooks):
      learner = centers_step(learner, used, objective, rates, penalty)
      learner = learner._replace(
        quantized_stats=quantized_stats,
        codebooks=codebook_tree.with_static(learner.codebooks, given),
      )
    return learner, loss

  def loss_at_x(params, objective, stats):
    loss, stats = objective(params, stats)
    return loss, (loss, stats)

  def quantized_loss(params, learner, objective, penalty):
    """The loss of the quantized model, as far as it counts, and its stats."""
    quantized = quantize(params, learner.codebooks)
    at = jax.lax.stop_gradient(quantized) if hard else quantized
    loss, stats = objective(at, learner.quantized_stats)
    loss = jnp.where(codebook_tree.is_quantized(learner.codebooks), loss, 0.0)
    return loss if penalty is None else loss + penalty(quantized), stats

  def centers_step(learner, used, objective, rates, penalty):
    def centers_loss(centers):
      codebooks = codebook_tree.with_centers(learner.codebooks, centers)
      params = quantize(learner.params, codebooks)
      loss, _ = objective(params, learner.quantized_stats)
      return loss if penalty is None else loss + penalty(params)

    centers = codebook_tree.get_centers(learner.codebooks)
    grads = where_used(used, lambda: jax.grad(centers_loss)(centers))
    updates, state = centers_chain.update(
      grads,
      learner.centers_opt_state,
      centers,
      codebooks=learner.codebooks,
      weights=learner.params,
      learning_rate=rates.centers_learning_rate,
      strength=rates.strength,
    )
    centers = optax.apply_updates(centers, updates)
    return learner._replace(
      codebooks=codebook_tree.set_centers_tree(learner.codebooks, centers),
      centers_opt_state=state,
    )

  def current(learner, rates=None):
    del rates
    return alternating.current(learner)

  return Alternating(init, step, views, current, gradients=2 if hard else 3)
