"""A client's local steps of one round."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax.data.federation import Batch, ClientData
from quped_jax.methods.api import Context
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization.alternating import Learner, Objective


def run(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]],
  carry: Any,
  data: ClientData,
  context: Context,
  training: Training,
  *,
  steps: int | None = None,
  beside: Any = None,
  batches: int = 1,
) -> tuple[Any, dict[str, jax.Array]]:
  """Runs a client's local steps of one round, each on a new batch.

  Args:
    step: `(carry, batch) -> (carry, metrics)`, or `(carry, batch, beside)`.
    carry: what the steps update.
    data: the client's samples.
    context: has the client's key, and how many steps count.
    training: has the number of steps and the batch size.
    steps: a number of steps other than `training.steps`.
    beside: what is known of the client's training samples besides their labels,
      arrays `[max_count, ...]`; a step gets the rows of its batch.
    batches: how many batches a step gets, concatenated into one Batch.

  Returns:
    The carry after the last step, and the means of the metrics over the steps
    that count; 0 if none does.
  """
  steps = training.steps if steps is None else steps
  draw_key, augment_key = jax.random.split(context.key)
  positions = data.draw(draw_key, steps * batches, training.batch_size)
  positions = positions.reshape(steps, batches * training.batch_size)

  def body(carry, xs):
    index, position = xs
    key = jax.random.fold_in(augment_key, index)
    given = [data.train_batch(key, position)]
    if beside is not None:
      given.append(jax.tree.map(lambda x: x[position], beside))
    return step(carry, *given)

  if context.num_steps is None:
    indices = jnp.arange(steps, dtype=jnp.int32)
    carry, metrics = jax.lax.scan(body, carry, (indices, positions))
    return carry, jax.tree.map(jnp.mean, metrics)
  count = taken(context, steps)

  def add(index, carry_and_sums):
    carry, sums = carry_and_sums
    carry, metrics = body(carry, (index, positions[index]))
    return carry, jax.tree.map(jnp.add, sums, metrics)

  _, shapes = jax.eval_shape(body, carry, (jnp.int32(0), positions[0]))
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
    shapes,
  )
  # It ends with the last step that counts; of clients that run at once, with
  # the last that counts for any of them.
  carry, sums = jax.lax.fori_loop(0, count, add, (carry, nothing))
  return carry, jax.tree.map(lambda x: x / jnp.maximum(count, 1), sums)


def taken(context: Context, steps: int) -> Any:
  """How many of so many steps count, a whole number or int32 `[]`."""
  if context.num_steps is None:
    return steps
  return jnp.clip(context.num_steps, 0, steps)


def train(
  training: Training,
  learner: Learner,
  objective: Callable[[Batch], Objective],
  data: ClientData,
  context: Context,
  *,
  correction: Callable[[Any], Any] | None = None,
  batches: int = 1,
) -> tuple[Learner, dict[str, jax.Array]]:
  """Trains a learner; each local step is an alternating step.

  Args:
    training: how clients train.
    learner: where it starts.
    objective: `batch -> Objective`.
    data: the client's samples.
    context: has the client's rates and key.
    correction: `params -> tree`, added to their gradient, see
      `Alternating.step`.
    batches: how many batches a step gets, see `run`.

  Returns:
    The learner, and the means of the metrics.
  """

  def step(learner, batch):
    learner, loss = training.alternating.step(
      learner,
      objective(batch),
      context.rates,
      correction=correction and correction(learner.params),
    )
    return learner, {"loss": loss}

  return run(step, learner, data, context, training, batches=batches)
