"""Proximal quantization as optax gradient transformations.

`prox_quantize` goes last in an `optax.chain` over the weights, `prox_centers`
last in a chain over the levels:

    optimizer = optax.chain(
      optax.adamw(1e-3),
      qj.prox_quantize(learning_rate=1e-3, strength=1e-4),
    )
    updates, state = optimizer.update(grads, state, params, codebooks=codebooks)

Step size and strength are those given to the factory (numbers, or schedules of
the transformation's own count of updates), unless `update` is given others.
Values that differ between learners must be given to `update`, because vmap does
not map what a factory closes over.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from quped_jax.quantization import codebook as codebook_lib
from quped_jax.quantization import codebook_tree, proximal

Scalar = float | jax.Array


class ProxState(NamedTuple):
  """State of `prox_quantize` and `prox_centers`.

  Attributes:
    count: int32 `[]`, number of updates so far: the argument of schedules.
  """

  count: jax.typing.ArrayLike


def _value(
  given: Scalar | None,
  default: optax.ScalarOrSchedule | None,
  count: Any,
  name: str,
) -> Any:
  if given is not None:
    return given
  if default is None:
    raise ValueError(
      f"{name}=None: must be given to the factory, as a number or a schedule, "
      "or to update"
    )
  return default(count) if callable(default) else default


def _threshold(extra_args, learning_rate, strength, count) -> Any:
  """Step size times strength, each as given to update or else the factory."""
  step = _value(
    extra_args.get("learning_rate"), learning_rate, count, "learning_rate"
  )
  pull = _value(extra_args.get("strength"), strength, count, "strength")
  return step * pull


def _check_not_negative(name: str, value: Any) -> None:
  if isinstance(value, (int, float)) and not value >= 0:
    raise ValueError(f"{name}={value}: must be at least 0")


def _check_args(params: Any, codebooks: Any) -> None:
  if params is None:
    raise ValueError("params=None: update must be given the current parameters")
  if codebooks is None:
    raise ValueError(
      "codebooks=None: update must be given the tree of codebooks"
    )


def prox_quantize(
  learning_rate: optax.ScalarOrSchedule | None = None,
  strength: optax.ScalarOrSchedule | None = None,
  norm: str = "l1",
) -> optax.GradientTransformationExtraArgs:
  r"""Pull weights towards their levels after a base optimizer's step.

  .. math::
    u \leftarrow \mathrm{prox}_{\eta \lambda R(\cdot, c)}(x + u) - x

  where u is the incoming update. Tensors without a codebook, and those in full
  precision, keep their update bit for bit. Since updates are float differences,
  a weight can miss its level by one rounding error: apply `hard_quantize` to
  the parameters for exact levels.

  `update(updates, state, params, *, codebooks, learning_rate=None,
  strength=None)` takes a tree of codebooks that mirrors params. Under
  `optax.masked`, mask it in the same way with `mask_codebooks`.

  Args:
    learning_rate: eta, a number or a schedule.
    strength: lambda, a number or a schedule.
    norm: "l1" or "l2".

  Returns:
    A gradient transformation with extra arguments.

  Raises:
    ValueError: unknown norm or a negative number; at update, missing params,
      codebooks or values.
    AssertionError: at update, updates whose shapes are not those of params.

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
  """
  proximal.check_norm(norm)
  _check_not_negative("learning_rate", learning_rate)
  _check_not_negative("strength", strength)

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
  learning_rate: optax.ScalarOrSchedule | None = None,
  strength: optax.ScalarOrSchedule | None = None,
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
  codebooks in full precision get no update.

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

  References:
    Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
    Distillation with Applications to Federated Learning, 2021 (Algorithm 1).
  """
  proximal.check_norm(norm)
  proximal.check_center_method(method)
  _check_not_negative("learning_rate", learning_rate)
  _check_not_negative("strength", strength)

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


def mask_codebooks(codebooks: Any, mask: Any) -> Any:
  """Masks a tree of codebooks as `optax.masked` masks updates.

  Args:
    codebooks: a tree of codebooks.
    mask: a tree of bools with the structure of the parameters, or a prefix of
      it.

  Returns:
    The codebooks, with `optax.MaskedNode()` wherever the mask says False.

  Raises:
    ValueError: the mask is a function; call it with the parameters.
  """
  if callable(mask):
    raise ValueError(
      f"mask={mask}: must be a tree of bools; call the function with the "
      "parameters"
    )
  return jax.tree.map(
    lambda keep, part: part if keep else optax.MaskedNode(), mask, codebooks
  )


def scale_by_step_size(
  learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Scale updates by minus a step size that `update` may be given.

  Like `optax.scale_by_learning_rate`, but `update(..., learning_rate=)` takes
  precedence: each learner can have its own step size without a compilation of
  its own.

  Args:
    learning_rate: a number or a schedule, used when update is given none.

  Returns:
    A gradient transformation with extra arguments.

  Raises:
    ValueError: a negative number; at update, no step size.
  """
  _check_not_negative("learning_rate", learning_rate)

  def init_fn(params):
    del params
    return ProxState(count=jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params
    given = extra_args.get("learning_rate")
    step = _value(given, learning_rate, state.count, "learning_rate")
    scaled = jax.tree.map(lambda u: (-step * u).astype(u.dtype), updates)
    return scaled, ProxState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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
