"""Learners in quantized training, and the interface of what trains them.

`training_steps.make_alternating` makes an `Alternating` for each estimator; a
learner, and what becomes of it, is the same for all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree
from quped_jax.quantization.views import View
from quped_jax.short_repr import short_repr

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
    progress: the share of the training that is done, from 0 to 1, for
      estimators that go by it (`annealing.ANNEALED`); None for others.
  """

  learning_rate: Any
  centers_learning_rate: Any
  strength: Any
  progress: Any = None


class Learner(NamedTuple):
  """A model in quantized training, with everything that its steps need.

  Attributes:
    params: tree of parameters: x, and those that are not quantized. Estimators
      with latent weights (see `latent.py`) have those in place of x.
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
      (Learner, loss)`, one step; the loss is that of the objective at the first
      of the views, before the step. `penalty` is a further loss, of the
      quantized parameters alone, that counts once, in full precision too.
      `correction`, a tree over the parameters, is added to their gradient (a
      control variate, say).
    views: `(learner, rates=None) -> [View, ...]`, the models whose losses are
      minimised. Estimators that go by `rates.progress` need the rates.
    current: `(learner, rates=None) -> (params, stats)`, the first of the views:
      the model in training.
    gradients: how many gradients of the objective a step of the first phase
      takes with codebooks.
    latent: whether the network runs at a map of the weights and never at the
      weights, so that an objective does not see them. What is to pull at the
      weights themselves is then a `correction`.
  """

  init: Callable[[Any, Any, Any], Learner]
  step: Callable[..., tuple[Learner, jax.Array]]
  views: Callable[..., list[View]]
  current: Callable[..., tuple[Any, Any]]
  gradients: int
  latent: bool = False


def has_codebooks(codebooks: Any) -> bool:
  """Whether anything may be quantized; static, so known while tracing."""
  return bool(codebook_tree.codebook_leaves(codebooks))


def assemble(
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
  params = assemble(learner.params, learner.codebooks, assignments)
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


def corrected(grads: Any, correction: Any) -> Any:
  """The gradient of the parameters, with what is added to it, if anything."""
  if correction is None:
    return grads
  return jax.tree.map(jnp.add, grads, correction)
