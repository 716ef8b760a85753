"""The models that a learner trains: at x, and its quantized form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class View(NamedTuple):
  """A model that a learner trains: at x, or its quantized form.

  Attributes:
    params: tree of parameters.
    stats: its batch-norm statistics.
    counts: bool, whether its loss counts. For a learner in full precision that
      of the quantized view does not, since it is the same model again.
    runs: bool, whether its loss counts for any of the learners that run at the
      same time, see `levels_in_use.in_use`; static, or the same for all.
  """

  params: Any
  stats: Any
  counts: Any
  runs: Any = True


def where_used(
  used: Any, fn: Callable[[], Any], otherwise: Callable[[], Any] | None = None
) -> Any:
  """What a function returns if that is of use; if not, it is not even run.

  Args:
    used: bool, static or not, see `levels_in_use.in_use`.
    fn: takes nothing.
    otherwise: called in its place, and returns the same types; None for zeros.
  """

  def zeros():
    shapes = jax.eval_shape(fn)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  otherwise = otherwise or zeros
  if isinstance(used, bool):
    return fn() if used else otherwise()
  return jax.lax.cond(used, fn, otherwise)


def add_loss(view: View, total: jax.Array, loss: jax.Array) -> jax.Array:
  """Adds the loss of a view if it counts."""
  if view.counts is True:
    return total + loss
  return total + jnp.where(view.counts, loss, 0.0)
