r"""The alternating proximal step that trains weights and levels together.

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

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks
from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import (
  codebook_tree,
  levels_in_use,
  soft_quantizer,
  transforms,
)
from quped_jax.quantization.views import View, where_used
from quped_jax.short_repr import short_repr

ESTIMATORS = ("soft", "hard")

# objective(params, stats) -> (loss, new stats)
Objective = Callable[[Any, Any], tuple[jax.Array, Any]]
# penalty(quantized params) -> loss
Penalty = Callable[[Any], jax.Array]


class Rates(NamedTuple):
  """Step sizes and strength of a learner's steps, float scalars.

  Attributes:
    learning_rate: eta_1, step size of the weights.
    centers_learning_rate: eta_2, step size of the levels.
    strength: lambda, the strength of the regularizer R.
  """

  learning_rate: Any
  centers_learning_rate: Any
  strength: Any


class Learner(NamedTuple):
  """A model in quantized training, with everything that its steps need.

  Attributes:
    params: tree of parameters: x, and those that are not quantized.
    codebooks: tree of codebooks over params.
    stats: batch-norm statistics of the model at x.
    quantized_stats: batch-norm statistics of the quantized model.
    opt_state: state of the optimizer of params.
    centers_opt_state: state of the optimizer of the levels.
    assignments: None in the first phase; in the fine-tuning phase a tree over
      params of uint8 level indices, `optax.MaskedNode()` where there is no
      codebook.
  """

  params: Any
  codebooks: Any
  stats: Any
  quantized_stats: Any
  opt_state: Any
  centers_opt_state: Any
  assignments: Any = None

  __repr__ = short_repr


class Alternating(NamedTuple):
  """The functions that `make_alternating` returns.

  Attributes:
    init: `(params, stats, codebooks) -> Learner`.
    step: `(learner, objective, rates, penalty=None, correction=None) ->
      (Learner, loss)`, one alternating step; the loss is that of the objective
      at x (at c[k(i)] in the fine-tuning phase), before the step. `penalty` is
      a further loss, of the quantized parameters alone, that counts once, in
      full precision too. `correction`, a tree over the parameters, is added to
      their gradient (a control variate, say).
    views: `learner -> [View, ...]`, the models whose losses are minimised.
    gradients: how many gradients of the objective a step of the first phase
      takes with codebooks.
  """

  init: Callable[[Any, Any, Any], Learner]
  step: Callable[..., tuple[Learner, jax.Array]]
  views: Callable[[Learner], list[View]]
  gradients: int


def has_codebooks(codebooks: Any) -> bool:
  """Whether anything may be quantized; static, so known while tracing."""
  return bool(codebook_tree.codebook_leaves(codebooks))


def _assemble(
  params: Any, codebooks: Any, assignments: Any, deterministic: bool = False
) -> Any:
  """c[k(i)] where there are levels, the parameter itself elsewhere."""

  def visit(codebook, index, x):
    level = codebook_lib.look_up(index, codebook, deterministic=deterministic)
    level = level.astype(x.dtype)
    return jnp.where(codebook.levels > 0, level, x)

  return codebook_tree.map_codebooks(
    visit, codebooks, assignments, params, otherwise=lambda _, x: x
  )


def freeze(learner: Learner) -> Learner:
  """Begins the fine-tuning phase: quantizes, and freezes the assignment.

  A learner without codebooks has nothing to freeze and stays as it is.
  """
  if not has_codebooks(learner.codebooks) or learner.assignments is not None:
    return learner
  assignments = codebook_tree.map_codebooks(
    lambda codebook, x: codebook_lib.nearest(x, codebook).astype(jnp.uint8),
    learner.codebooks,
    learner.params,
  )
  params = _assemble(learner.params, learner.codebooks, assignments)
  return learner._replace(params=params, assignments=assignments)


def deployed(learner: Learner) -> tuple[Any, Any]:
  """The quantized model that is evaluated and kept: (params, stats)."""
  if not has_codebooks(learner.codebooks):
    return learner.params, learner.stats
  if learner.assignments is not None:
    return learner.params, learner.quantized_stats
  params = codebook_tree.hard_quantize_tree(learner.params, learner.codebooks)
  return params, learner.quantized_stats


def current(learner: Learner) -> tuple[Any, Any]:
  """The model in training, at x or at c[k(i)]: (params, stats)."""
  frozen = learner.assignments is not None
  return learner.params, learner.quantized_stats if frozen else learner.stats


def make_alternating(
  optimizer: optax.GradientTransformation,
  centers_optimizer: optax.GradientTransformation,
  *,
  estimator: str = "soft",
  sharpness: float = 10.0,
  sharpness_unit: str = "gap",
  norm: str = "l1",
  center_prox: str = "exact",
  deterministic: bool = False,
  most: int | None = None,
  mixed: bool = False,
) -> Alternating:
  """Makes the alternating proximal step.

  Args:
    optimizer: of the parameters; its `update` is given `learning_rate`,
      `strength` and `codebooks` as extra arguments.
    centers_optimizer: of the levels, likewise. When levels cross and are
      sorted, any moments that it keeps are not reordered with them; plain SGD
      keeps none.
    estimator: "soft" differentiates through the soft quantizer; "hard" runs
      the model at the nearest levels, through which no gradient reaches the
      parameters, quantized or not. A `penalty` runs no model: the parameters
      that are not quantized get its gradient.
    sharpness: of the soft quantizer, in `sharpness_unit`.
    sharpness_unit: "gap" or "absolute".
    norm: of the regularizer, "l1" or "l2".
    center_prox: "exact" or "subgradient".
    deterministic: whether steps must be the same bit for bit in every run on an
      accelerator too, as far as they add weights to levels.
    most: no learner has more levels than that, whatever its codebooks have room
      for; None if all may be in use.
    mixed: whether learners differ in how many levels they have: a program that
      runs them one at a time then does for each what its own ask for.

  Returns:
    The functions init, step and views, and how many gradients a step takes.

  Raises:
    ValueError: unknown estimator, unit, norm or center_prox; a negative `most`.
  """
  checks.choice("estimator", estimator, ESTIMATORS)
  soft_quantizer.check_sharpness(sharpness, sharpness_unit)
  if most is not None:
    checks.whole("most", most, 0)
  optimizer = optax.with_extra_args_support(optimizer)
  centers_optimizer = optax.with_extra_args_support(centers_optimizer)
  prox = optax.chain(optimizer, transforms.prox_quantize(norm=norm))
  centers_chain = optax.chain(
    centers_optimizer,
    transforms.prox_centers(
      norm=norm, method=center_prox, deterministic=deterministic
    ),
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
    codebooks = learner.codebooks
    if mixed or most is not None:
      codebooks = codebook_tree.in_program(codebooks, most=most, mixed=mixed)
    used = levels_in_use.in_use(codebook_tree.codebook_leaves(codebooks))
    return learner._replace(codebooks=codebooks), used

  def views(learner):
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

  def corrected(grads, correction):
    if correction is None:
      return grads
    return jax.tree.map(jnp.add, grads, correction)

  def finetune_step(learner, objective, rates, penalty, correction):
    def loss_fn(params, centers):
      codebooks = codebook_tree.with_centers(learner.codebooks, centers)
      params = _assemble(params, codebooks, learner.assignments, deterministic)
      loss, stats = objective(params, learner.quantized_stats)
      total = loss if penalty is None else loss + penalty(params)
      return total, (loss, stats)

    centers = codebook_tree.get_centers(learner.codebooks)
    (grads, centers_grads), (loss, stats) = jax.grad(
      loss_fn, argnums=(0, 1), has_aux=True
    )(learner.params, centers)
    grads = corrected(grads, correction)
    # Without R: the base optimizers alone, whose states come first.
    updates, base_state = optimizer.update(
      grads,
      learner.opt_state[0],
      learner.params,
      codebooks=learner.codebooks,
      learning_rate=rates.learning_rate,
    )
    centers_updates, centers_state = centers_optimizer.update(
      centers_grads,
      learner.centers_opt_state[0],
      centers,
      codebooks=learner.codebooks,
      learning_rate=rates.centers_learning_rate,
    )
    # Not sorted: the frozen indices depend on the order.
    codebooks = codebook_tree.with_centers(
      learner.codebooks, optax.apply_updates(centers, centers_updates)
    )
    params = optax.apply_updates(learner.params, updates)
    learner = learner._replace(
      params=_assemble(params, codebooks, learner.assignments),
      codebooks=codebooks,
      quantized_stats=stats,
      opt_state=(base_state, learner.opt_state[1]),
      centers_opt_state=(centers_state, learner.centers_opt_state[1]),
    )
    return learner, loss

  return Alternating(init, step, views, gradients=2 if hard else 3)
