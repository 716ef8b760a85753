"""The step of the fine-tuning phase, the same for all estimators.

The index k(i) of each weight's level is frozen, the model is c[k(i)], and
training goes on for the levels and the parameters that are not quantized.
"""

from collections.abc import Callable

import jax
import optax

from quped_jax.quantization.alternating import Learner, assemble, corrected
from quped_jax.quantization.trained_levels import TrainedLevels


def make_finetune_step(
  optimizer: optax.GradientTransformationExtraArgs,
  centers_optimizer: optax.GradientTransformationExtraArgs,
  levels: TrainedLevels,
  *,
  deterministic: bool,
) -> Callable[..., tuple[Learner, jax.Array]]:
  """Makes the step of a learner whose assignment is frozen.

  Args:
    optimizer: of the parameters; its state is the first of the two in the
      learner's `opt_state`.
    centers_optimizer: of the levels, likewise.
    levels: which numbers of the codebooks it updates.
    deterministic: see `make_alternating`.

  Returns:
    `(learner, objective, rates, penalty, correction) -> (Learner, loss)`.
  """

  def finetune_step(learner, objective, rates, penalty, correction):
    def loss_fn(params, numbers):
      codebooks = levels.put(learner.codebooks, numbers)
      params = assemble(params, codebooks, learner.assignments, deterministic)
      loss, stats = objective(params, learner.quantized_stats)
      total = loss if penalty is None else loss + penalty(params)
      return total, (loss, stats)

    numbers = levels.get(learner.codebooks)
    (grads, level_grads), (loss, stats) = jax.grad(
      loss_fn, argnums=(0, 1), has_aux=True
    )(learner.params, numbers)
    grads = corrected(grads, correction)
    # Without R: the base optimizers alone, whose states come first.
    updates, base_state = optimizer.update(
      grads,
      learner.opt_state[0],
      learner.params,
      codebooks=learner.codebooks,
      learning_rate=rates.learning_rate,
    )
    level_updates, levels_state = centers_optimizer.update(
      level_grads,
      learner.centers_opt_state[0],
      numbers,
      codebooks=learner.codebooks,
      learning_rate=rates.centers_learning_rate,
    )
    # Not sorted: the frozen indices depend on the order.
    codebooks = levels.put(
      learner.codebooks, optax.apply_updates(numbers, level_updates)
    )
    params = optax.apply_updates(learner.params, updates)
    learner = learner._replace(
      params=assemble(params, codebooks, learner.assignments),
      codebooks=codebooks,
      quantized_stats=stats,
      opt_state=(base_state, learner.opt_state[1]),
      centers_opt_state=(levels_state, learner.centers_opt_state[1]),
    )
    return learner, loss

  return finetune_step
