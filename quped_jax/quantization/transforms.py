"""Proximal quantization as optax gradient transformations.

`prox_quantize` goes last in an `optax.chain` over the weights, `prox_centers`
last in a chain over the levels:

    optimizer = optax.chain(
      optax.adamw(1e-3),
      qj.prox_quantize(learning_rate=1e-3, strength=1e-4),
    )
    updates, state = optimizer.update(grads, state, params, codebooks=codebooks)

Step size and strength are those given to the factory, unless `update` is given
others: numbers, or schedules of the transformation's own count of updates.
Values that differ between learners must be given to `update`, because vmap does
not map what a factory closes over.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree, proximal
from quped_jax.quantization.step_sizes import (
  ProxState,
  check_not_negative,
  chosen,
)
from quped_jax.typing import Codebooks, NumberOrSchedule, Tree


def _threshold(extra_args, learning_rate, strength, count) -> Any:
  """Step size times strength, each as given to update or else the factory."""
  step = chosen(
    extra_args.get("learning_rate"), learning_rate, count, "learning_rate"
  )
  pull = chosen(extra_args.get("strength"), strength, count, "strength")
  return step * pull


def _check_args(params: Any, codebooks: Any) -> None:
  if params is None:
    raise ValueError("params=None: update must be given the current parameters")
  if codebooks is None:
    raise ValueError(
      "codebooks=None: update must be given the tree of codebooks"
    )


def prox_quantize(
  learning_rate: NumberOrSchedule | None = None,
  strength: NumberOrSchedule | None = None,
  norm: str = "l1",
) -> optax.GradientTransformationExtraArgs:
  r"""Pull weights towards their levels after a base optimizer's step.

  .. math::
    u \leftarrow \mathrm{prox}_{\eta \lambda R(\cdot, c)}(x + u) - x

  where u is the incoming update. It goes last in a chain. Tensors without a
  codebook, and those in full precision, keep their update bit for bit. Since
  updates are float differences, a weight can miss its level by one rounding
  error: for a model of levels alone, apply `hard_quantize_tree` to the
  parameters at the end.

  `update(updates, state, params, *, codebooks, learning_rate=None,
  strength=None)` takes the levels of every tensor that is quantized:
  `codebooks` is a tree that mirrors params, as `init_codebooks` makes it. The
  levels stay where they are; fit them anew now and then, or train them by a
  second chain with `prox_centers`. A learning rate or strength that is given to
  `update` comes before that of the factory.

  How strong? With "l1", each step moves a weight by at most learning_rate times
  strength towards its nearest level, and never past it. So compare the strength
  with the base optimizer's update divided by its learning rate: under SGD that
  is the gradient of a single weight, often 1e-4 to 1e-2 (in a run, QuPeD begins
  at 1e-4 and adds as much every round); under Adam it is about 1, so that 0.1
  hardly shows and from 1 on the levels win. Begin near 0, and let a schedule
  raise it until weights stay at their levels. With "l2", each step shortens the
  distance to the level by the factor 1 / (1 + 2 * learning_rate * strength).

  Args:
    learning_rate: eta, a number or a schedule: that of the base optimizer. It
      scales the pull alone; the base optimizer has its own.
    strength: lambda, a number or a schedule.
    norm: "l1" or "l2", of the distance R between weights and levels.

  Returns:
    A gradient transformation with extra arguments.

  Raises:
    ValueError: unknown norm or a negative number; at update, missing params,
      codebooks or values.
    AssertionError: at update, updates whose shapes are not those of params.

  Examples:
    A network of two layers, one at 2 bits, the other in full precision. The
    first pattern that matches a path counts; "*" stands for all others.

    >>> params = {
    ...   "hidden": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)},
    ...   "last": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)},
    ... }
    >>> codebooks = qj.init_codebooks(
    ...   params,
    ...   lambda path: path.endswith("kernel"),
    ...   bits={"hidden/*": 2, "*": 32},
    ... )
    >>> rate = optax.cosine_decay_schedule(0.1, decay_steps=100)
    >>> optimizer = optax.chain(
    ...   optax.adam(rate),
    ...   qj.prox_quantize(rate, optax.linear_schedule(0.0, 4.0, 50)),
    ... )
    >>> def loss(params):
    ...   outputs = params["hidden"]["kernel"] @ params["last"]["kernel"]
    ...   return jnp.mean((outputs - 0.5) ** 2)
    >>> @jax.jit
    ... def step(params, state):
    ...   grads = jax.grad(loss)(params)
    ...   updates, state = optimizer.update(
    ...     grads, state, params, codebooks=codebooks
    ...   )
    ...   return optax.apply_updates(params, updates), state
    >>> state = optimizer.init(params)
    >>> for _ in range(100):
    ...   params, state = step(params, state)
    >>> model = qj.hard_quantize_tree(params, codebooks)
    >>> len(jnp.unique(model["hidden"]["kernel"])) <= 4
    True

    Inside `optax.MultiSteps` a pull follows every k-th gradient; the codebooks
    are given to each update.

    >>> every = optax.MultiSteps(optimizer, every_k_schedule=2)
    >>> state = every.init(params)
    >>> grads = jax.grad(loss)(params)
    >>> updates, state = every.update(grads, state, params, codebooks=codebooks)

    Under `optax.masked`, mask the codebooks too.

    >>> mask = {"hidden": True, "last": False}
    >>> masked = optax.masked(qj.prox_quantize(0.1, 1e-3), mask)
    >>> updates, _ = masked.update(
    ...   updates,
    ...   masked.init(params),
    ...   params,
    ...   codebooks=qj.mask_codebooks(codebooks, mask),
    ... )

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
  """
  proximal.check_norm(norm)
  check_not_negative("learning_rate", learning_rate)
  check_not_negative("strength", strength)

  def init_fn(params):
    del params
    return ProxState(count=jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    codebooks = extra_args.get("codebooks")
    _check_args(params, codebooks)
    chex.assert_trees_all_equal_shapes(updates, params)
    threshold = _threshold(extra_args, learning_rate, strength, state.count)

    def prox(codebook, update, param):
      x = proximal.weights_prox(param + update, codebook, threshold, norm)
      prox_update = (x - param).astype(update.dtype)
      return jnp.where(codebook.levels > 0, prox_update, update)

    updates = codebook_tree.map_codebooks(
      prox, codebooks, updates, params, otherwise=lambda update, _: update
    )
    return updates, ProxState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def prox_centers(
  learning_rate: NumberOrSchedule | None = None,
  strength: NumberOrSchedule | None = None,
  norm: str = "l1",
  method: str = "exact",
  *,
  deterministic: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Pull levels towards their weights after a base optimizer's step.

  .. math::
    u \leftarrow \mathrm{prox}_{\eta \lambda R(x, \cdot)}(c + u) - c

  The tree that is optimized is `get_centers(codebooks)`. After
  `optax.apply_updates` hand the result to `set_centers_tree`, which restores
  the order of the levels and their padding.

  `update(updates, state, params, *, codebooks, weights, learning_rate=None,
  strength=None)` takes the codebooks before the step and the tree of weights;
  params are the centers of these codebooks. Padding is never moved, and
  codebooks in full precision get no update. As with `prox_quantize`, learning
  rate and strength may be given to either, as numbers or schedules.

  The pull of a level is learning_rate times strength for each weight that has
  it: of a tensor of 10,000 weights at 1 bit, some 5000 pull at each level. So a
  level goes to the median ("l1") or the mean ("l2") of its weights in a few
  steps, unless learning_rate times strength is well below 1 divided by their
  number. QuPeD trains levels with a learning rate of 1e-3.

  Args:
    learning_rate: eta, a number or a schedule.
    strength: lambda, a number or a schedule.
    norm: "l1" or "l2".
    method: "exact" or "subgradient", see `centers_prox`.
    deterministic: likewise.

  Returns:
    A gradient transformation with extra arguments.

  Raises:
    ValueError: unknown norm or method or a negative number; at update,
      missing params, codebooks, weights or values.
    AssertionError: at update, updates whose shapes are not those of params.

  Examples:
    >>> weights = {"kernel": jnp.array([-1.2, -1.0, -0.8, 0.9, 1.0, 1.4])}
    >>> levels = qj.Codebook(jnp.array([-2.0, 2.0]), jnp.int32(2))
    >>> codebooks = {"kernel": levels}
    >>> optimizer = optax.chain(
    ...   optax.sgd(0.1), qj.prox_centers(0.1, strength=10.0)
    ... )
    >>> centers = qj.get_centers(codebooks)
    >>> grads = jax.tree.map(jnp.zeros_like, centers)
    >>> updates, _ = optimizer.update(
    ...   grads,
    ...   optimizer.init(centers),
    ...   centers,
    ...   codebooks=codebooks,
    ...   weights=weights,
    ... )
    >>> centers = optax.apply_updates(centers, updates)
    >>> codebooks = qj.set_centers_tree(codebooks, centers)
    >>> print(jnp.round(codebooks["kernel"].centers, 2))  # medians of weights
    [-1.  1.]

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
  """
  proximal.check_norm(norm)
  proximal.check_center_method(method)
  check_not_negative("learning_rate", learning_rate)
  check_not_negative("strength", strength)

  def init_fn(params):
    del params
    return ProxState(count=jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    codebooks = extra_args.get("codebooks")
    weights = extra_args.get("weights")
    _check_args(params, codebooks)
    if weights is None:
      raise ValueError("weights=None: update must be given the tree of weights")
    chex.assert_trees_all_equal_shapes(updates, params)
    threshold = _threshold(extra_args, learning_rate, strength, state.count)

    def prox(codebook, update, centers, x):
      moved = proximal.centers_prox(
        centers + update,
        x,
        codebook,
        threshold,
        norm,
        method,
        deterministic=deterministic,
      )
      used = codebook_lib.valid(codebook)
      return jnp.where(used, moved - centers, 0.0).astype(update.dtype)

    updates = codebook_tree.map_codebooks(
      prox, codebooks, updates, params, weights
    )
    return updates, ProxState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mask_codebooks(codebooks: Codebooks, mask: Tree) -> Codebooks:
  """Masks a tree of codebooks as `optax.masked` masks updates.

  Args:
    codebooks: a tree of codebooks.
    mask: a tree of bools with the structure of the parameters, or a prefix of
      it.

  Returns:
    The codebooks, with `optax.MaskedNode()` wherever the mask says False.

  Raises:
    ValueError: the mask is a function; call it with the parameters.

  Examples:
    >>> params = {"a": jnp.arange(4.0), "b": jnp.ones(4)}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> masked = qj.mask_codebooks(codebooks, {"a": True, "b": False})
    >>> masked["b"]
    MaskedNode()
  """
  if callable(mask):
    raise ValueError(
      f"mask={mask}: must be a tree of bools; call the function with the "
      "parameters"
    )
  return jax.tree.map(
    lambda keep, part: part if keep else optax.MaskedNode(), mask, codebooks
  )


def keep_params_in_box(
  limit: float,
) -> optax.GradientTransformationExtraArgs:
  r"""Clip quantized weights to an interval after a base optimizer's step.

  .. math:: u \leftarrow \mathrm{clip}(x + u, -b, b) - x

  Applies to tensors with levels. It goes between the base optimizer and
  `prox_quantize`, and its `update` takes `codebooks`.

  Args:
    limit: b, positive.

  Returns:
    A gradient transformation with extra arguments.

  Raises:
    ValueError: limit not positive; at update, missing params or codebooks.

  Examples:
    >>> params = {"kernel": jnp.array([-1.0, -0.75, 0.5, 1.0])}
    >>> codebooks = qj.init_codebooks(params, lambda path: True, bits=1)
    >>> optimizer = optax.chain(
    ...   optax.sgd(1.0), qj.keep_params_in_box(1.0), qj.prox_quantize(1.0, 0.0)
    ... )
    >>> updates, _ = optimizer.update(
    ...   {"kernel": jnp.full(4, 0.5)},
    ...   optimizer.init(params),
    ...   params,
    ...   codebooks=codebooks,
    ... )
    >>> print(optax.apply_updates(params, updates)["kernel"])
    [-1.  -1.   0.   0.5]
  """
  if not limit > 0:
    raise ValueError(f"limit={limit}: must be positive")

  def init_fn(params):
    del params
    return optax.EmptyState()

  def update_fn(updates, state, params=None, **extra_args):
    codebooks = extra_args.get("codebooks")
    _check_args(params, codebooks)

    def clip(codebook, update, param):
      inside = jnp.clip(param + update, -limit, limit) - param
      return jnp.where(codebook.levels > 0, inside, update)

    updates = codebook_tree.map_codebooks(
      clip, codebooks, updates, params, otherwise=lambda update, _: update
    )
    return updates, state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
