"""Learners in quantized training, and the interface of what trains them.

`training_steps.make_alternating` makes an `Alternating` for each estimator; a
learner, and what becomes of it, is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree
from quped_jax.quantization.views import View
from quped_jax.short_repr import short_repr
from quped_jax.typing import Codebooks, Tree

# objective(params, stats) -> (loss, new stats)
Objective = Callable[[Any, Any], tuple[jax.Array, Any]]
# penalty(quantized params) -> loss
Penalty = Callable[[Any], jax.Array]


class Rates(NamedTuple):
  """Step sizes and strength of a learner's steps.

  Each is a number, or any optax schedule of the number of the learner's updates
  so far. Numbers may be traced; rates with a schedule must be closed over by a
  function that is jitted, as they are no arrays that could be given to it.

  Attributes:
    learning_rate: eta_1, step size of the weights.
    centers_learning_rate: eta_2, step size of the levels.
    strength: lambda, the strength of the regularizer R; see `prox_quantize` for
      what is usual.
    progress: the share of the training that is done, a number from 0 to 1, for
      the estimators "binaryrelax" and "parq"; None for others.

  Examples:
    >>> rates = qj.Rates(
    ...   learning_rate=optax.cosine_decay_schedule(0.1, decay_steps=500),
    ...   centers_learning_rate=1e-3,
    ...   strength=optax.linear_schedule(0.0, 1e-2, 500),
    ... )
    >>> float(rates.learning_rate(0)), float(rates.strength(0))
    (0.1..., 0.0)
  """

  # Numbers or schedules; those of the engine's clients are always numbers.
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

  Examples:
    `make_alternating(...).init` makes one; a client of most methods is one too.

    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> training = qj.make_alternating(optax.sgd(0.1), optax.sgd(0.01))
    >>> learner = training.init(params, {}, codebooks)
    >>> print(learner.codebooks["kernel"].centers)
    [-0.75  0.75]
  """

  params: Tree
  codebooks: Codebooks
  stats: Tree
  quantized_stats: Tree
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

  Examples:
    >>> training = qj.make_alternating(optax.sgd(0.1), optax.sgd(0.01))
    >>> training.gradients  # of a step: two of the weights, one of the levels
    3
  """

  init: Callable[[Tree, Tree, Codebooks], Learner]
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

  From then on each weight keeps its level, while the levels, and the parameters
  that are not quantized, train on. A learner without codebooks has nothing to
  freeze and stays as it is.

  Args:
    learner: in the first phase, or already frozen.

  Returns:
    The learner, whose weights are at their levels.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> training = qj.make_alternating(optax.sgd(0.1), optax.sgd(0.01))
    >>> frozen = qj.freeze(training.init(params, {}, codebooks))
    >>> print(frozen.assignments["kernel"], frozen.params["kernel"])
    [0 0 1 1] [-0.75 -0.75  0.75  0.75]
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


def deployed(learner: Learner) -> tuple[Tree, Tree]:
  """The quantized model of a learner, which is evaluated and kept.

  Args:
    learner: in either phase.

  Returns:
    (params, stats): the parameters, with every quantized weight at its nearest
    level, and the batch-norm statistics of that model.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> training = qj.make_alternating(optax.sgd(0.1), optax.sgd(0.01))
    >>> params, _ = qj.deployed(training.init(params, {}, codebooks))
    >>> print(params["kernel"])
    [-0.75 -0.75  0.75  0.75]
  """
  if not has_codebooks(learner.codebooks):
    return learner.params, learner.stats
  if learner.assignments is not None:
    return learner.params, learner.quantized_stats
  params = codebook_tree.hard_quantize_tree(learner.params, learner.codebooks)
  return params, learner.quantized_stats


def current(learner: Learner) -> tuple[Tree, Tree]:
  """The model of a learner that is in training.

  Args:
    learner: in either phase, of an estimator with two losses ("soft", "hard").
      For others see `Alternating.current`, which maps their latent weights.

  Returns:
    (params, stats): the parameters x, or in the fine-tuning phase the levels
    that they are at, and the batch-norm statistics of that model.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.5, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> training = qj.make_alternating(optax.sgd(0.1), optax.sgd(0.01))
    >>> params, _ = qj.current(training.init(params, {}, codebooks))
    >>> print(params["kernel"])
    [-1.  -0.5  0.5  1. ]
  """
  frozen = learner.assignments is not None
  return learner.params, learner.quantized_stats if frozen else learner.stats


def corrected(grads: Any, correction: Any) -> Any:
  """The gradient of the parameters, with what is added to it, if anything."""
  if correction is None:
    return grads
  return jax.tree.map(jnp.add, grads, correction)
