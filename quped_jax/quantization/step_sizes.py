"""Step sizes and strengths: numbers or schedules, of a factory or an update."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax.typing import NumberOrSchedule


class ProxState(NamedTuple):
  """State of a transformation that counts its updates, for schedules.

  Attributes:
    count: int32 `[]`, number of updates so far.
  """

  count: jax.typing.ArrayLike


def chosen(
  given: NumberOrSchedule | None,
  default: NumberOrSchedule | None,
  count: Any,
  name: str,
) -> Any:
  """The number that counts in this update.

  Args:
    given: to `update`, which comes first.
    default: given to the factory.
    count: number of updates so far, the argument of schedules.
    name: what the error calls it.

  Raises:
    ValueError: neither is given.
  """
  value = default if given is None else given
  if value is None:
    raise ValueError(
      f"{name}=None: must be given to the factory, as a number or a schedule, "
      "or to update"
    )
  return value(count) if callable(value) else value


def check_not_negative(name: str, value: Any) -> None:
  """Raises a ValueError if it is a negative number, and no schedule."""
  if isinstance(value, (int, float)) and not value >= 0:
    raise ValueError(f"{name}={value}: must be at least 0")


def scale_by_step_size(
  learning_rate: NumberOrSchedule | None = None,
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
  check_not_negative("learning_rate", learning_rate)

  def init_fn(params):
    del params
    return ProxState(count=jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params
    given = extra_args.get("learning_rate")
    step = chosen(given, learning_rate, state.count, "learning_rate")
    scaled = jax.tree.map(lambda u: (-step * u).astype(u.dtype), updates)
    return scaled, ProxState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
