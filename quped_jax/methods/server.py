"""Building blocks of servers that train networks of their own."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from quped_jax import transforms
from quped_jax.methods import api


def check_steps(
  method: str, options: Any, prefix: str, *, smallest: int = 0
) -> None:
  """Raises a ValueError for wrong options of the server's steps.

  Args:
    method: whose options they are.
    options: with the fields PREFIX_steps, PREFIX_learning_rate and
      PREFIX_optimizer.
    prefix: of the fields.
    smallest: allowed number of steps.
  """
  steps, rate, optimizer = (
    f"{prefix}_{name}" for name in ("steps", "learning_rate", "optimizer")
  )
  api.check_at_least(f"{method}.{steps}", getattr(options, steps), smallest)
  api.check_positive(f"{method}.{rate}", getattr(options, rate))
  api.check_choice(
    f"{method}.{optimizer}",
    getattr(options, optimizer),
    transforms.OPTIMIZERS,
  )


def descend(
  optimizer: optax.GradientTransformationExtraArgs,
  learning_rate: float,
  loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]],
  model: api.GlobalModel,
  opt_state: Any,
  xs: Any,
) -> tuple[api.GlobalModel, Any]:
  """Gradient steps of a server's model, one after the other.

  Args:
    optimizer: whose `update` takes `learning_rate`.
    learning_rate: the step size.
    loss: `(params, stats, x) -> (loss, stats)`.
    model: where they start.
    opt_state: of the optimizer.
    xs: what the steps see, a tree of arrays `[steps, ...]`.

  Returns:
    The model and the optimizer's state after the last step.
  """

  def step(carry, x):
    model, opt_state = carry
    grads, stats = jax.grad(loss, has_aux=True)(model.params, model.stats, x)
    updates, opt_state = optimizer.update(
      grads, opt_state, model.params, learning_rate=learning_rate
    )
    params: Any = optax.apply_updates(model.params, updates)
    return (api.GlobalModel(params, stats), opt_state), None

  return jax.lax.scan(step, (model, opt_state), xs)[0]


def all_collected(aggregates: Mapping[str, api.Aggregate]) -> api.Collected:
  """What was collected from all cohorts, one after the other."""
  collected = [aggregate.collected for aggregate in aggregates.values()]
  return jax.tree.map(lambda *x: jnp.concatenate(x), *collected)


def if_heard(
  aggregates: Mapping[str, api.Aggregate], new: Any, old: Any
) -> Any:
  """The server's new state, or the old one if nobody sent anything."""
  heard = sum(a.weight for a in aggregates.values()) > 0
  return jax.tree.map(lambda a, b: jnp.where(heard, a, b), new, old)
