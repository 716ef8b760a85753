"""Building blocks of servers that train networks of their own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks
from quped_jax.data.federation import ClientData, Pool, PublicSet
from quped_jax.methods import api
from quped_jax.quantization import optimizers


def check_steps(
  method: str, options: Any, prefix: str, *, smallest: int = 0
) -> None:
  """Raises a ValueError for wrong options of the server's steps.

  Args:
    method: the method's name.
    options: its settings, with the fields PREFIX_steps, PREFIX_learning_rate
      and PREFIX_optimizer.
    prefix: the prefix of these fields.
    smallest: the smallest number of steps that is allowed.
  """
  steps, rate, optimizer = (
    f"{prefix}_{name}" for name in ("steps", "learning_rate", "optimizer")
  )
  checks.at_least(f"{method}.{steps}", getattr(options, steps), smallest)
  checks.positive(f"{method}.{rate}", getattr(options, rate))
  checks.choice(
    f"{method}.{optimizer}",
    getattr(options, optimizer),
    optimizers.OPTIMIZERS,
  )


def step(
  optimizer: optax.GradientTransformationExtraArgs,
  learning_rate: float,
  loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]],
  model: api.GlobalModel,
  opt_state: Any,
  x: Any,
) -> tuple[api.GlobalModel, Any]:
  """A gradient step of a server's model, see `descend`."""
  grads, stats = jax.grad(loss, has_aux=True)(model.params, model.stats, x)
  updates, opt_state = optimizer.update(
    grads, opt_state, model.params, learning_rate=learning_rate
  )
  params: Any = optax.apply_updates(model.params, updates)
  return model._replace(params=params, stats=stats), opt_state


def descend(
  optimizer: optax.GradientTransformationExtraArgs,
  learning_rate: float,
  loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]],
  model: api.GlobalModel,
  opt_state: Any,
  xs: Any,
  *,
  last: int = 1,
) -> tuple[api.GlobalModel, Any]:
  """Gradient steps of a server's model, one after the other.

  Args:
    optimizer: an optimizer whose `update` takes `learning_rate`.
    learning_rate: the step size.
    loss: `(params, stats, x) -> (loss, stats)`.
    model: the model before the steps.
    opt_state: state of the optimizer.
    xs: the x of every step, a tree of arrays `[steps, ...]`.
    last: how many models the result is the mean of: those after so many of the
      last steps (stochastic weight averaging).

  Returns:
    The model, and the optimizer's state after the last step.
  """

  def go(carry, x):
    model, opt_state = carry
    return step(optimizer, learning_rate, loss, model, opt_state, x), None

  if last == 1:
    return jax.lax.scan(go, (model, opt_state), xs)[0]

  def go_and_add(carry, x):
    reached, total = carry
    reached, _ = go(reached, x)
    return (reached, jax.tree.map(jnp.add, total, reached[0])), None

  steps = jax.tree.leaves(xs)[0].shape[0]
  last = min(last, steps)
  first, rest = (
    jax.tree.map(lambda x, part=part: x[part], xs)
    for part in (slice(steps - last), slice(steps - last, None))
  )
  reached = jax.lax.scan(go, (model, opt_state), first)[0]
  nothing = jax.tree.map(jnp.zeros_like, model)
  (_, opt_state), total = jax.lax.scan(go_and_add, (reached, nothing), rest)[0]
  mean = jax.tree.map(lambda x: (x / last).astype(x.dtype), total)
  return model._replace(params=mean.params, stats=mean.stats), opt_state


def all_collected(aggregates: Mapping[str, api.Aggregate]) -> api.Collected:
  """What was collected from all cohorts, concatenated."""
  collected = [aggregate.collected for aggregate in aggregates.values()]
  return jax.tree.map(lambda *x: jnp.concatenate(x), *collected)


class Received(NamedTuple):
  """Samples that clients sent, as training data.

  Attributes:
    everything: all samples and the padding, ordered by client and sample.
    real: the samples without the padding.
    rows: int32 `[clients * max_count]`, the row of `everything` at which each
      sample of `real` is; the padding comes last.
  """

  everything: ClientData
  real: ClientData
  rows: jax.Array


def receive_samples(
  inputs: jax.Array, labels: jax.Array, counts: jax.Array
) -> Received:
  """Makes training data from what clients sent, padded to equal numbers.

  Args:
    inputs: `[clients, max_count, ...]`.
    labels: int32 `[clients, max_count]`.
    counts: int32 `[clients]`, how many samples each has; padding follows them.
  """
  padding = jnp.arange(labels.shape[1])[None] >= counts[:, None]
  rows = jnp.argsort(padding.reshape(-1), stable=True).astype(jnp.int32)
  pool = Pool(
    inputs.reshape(-1, *inputs.shape[2:]),
    labels.reshape(-1),
    mean=jnp.zeros(()),
    std=jnp.ones(()),
  )
  samples = PublicSet(pool, labelled=True)
  real = samples.data(rows=rows)
  count = jnp.sum(~padding, dtype=jnp.int32)
  real = dataclasses.replace(
    real, train=dataclasses.replace(real.train, count=count)
  )
  return Received(samples.data(), real, rows)
