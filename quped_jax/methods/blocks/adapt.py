"""Steps on a client's own samples that train a model or one part of it.

The parts are the head, which is the last layer, and the body, which is the
rest.
"""

from collections.abc import Callable
from typing import Any

import jax

from quped_jax.data.federation import Batch, ClientData
from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps, partial
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, is_head
from quped_jax.quantization.alternating import Learner
from quped_jax.quantization.codebook_tree import path_name

PARTS = ("all", "head", "body")


def check_head(setting: str, model: Model, params: Any) -> None:
  """Raises a ValueError unless a model consists of a head and a body.

  Args:
    setting: the setting that divides it, for errors.
    model: the network.
    params: its parameters; only their paths matter.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  heads = [is_head(path_name(path)) for path, _ in leaves]
  if all(heads) or not any(heads):
    raise ValueError(
      f"model={model.name!r}: must have a layer 'last', its head, and others "
      f"with {setting}, which divides the model there"
    )


def keep(new: Any, old: Any, head: bool) -> Any:
  """Takes the head (or else the body) from `new`, the rest from `old`."""
  return partial.merge(
    partial.prune(new, is_head, head), partial.prune(old, is_head, not head)
  )


def step_of(
  training: Training, model: Model, context: api.Context, part: str = "all"
) -> Callable[[Learner, Batch], tuple[Learner, dict[str, jax.Array]]]:
  """The alternating step on the labels, for `local_steps.run`.

  Only the chosen part moves, whatever the optimizer does with the rest. Levels
  train with the body.

  Args:
    training: how clients train.
    model: the network.
    context: has the client's rates.
    part: which part trains, one of PARTS.
  """

  def step(learner, batch):
    objective = training.label_objective(model, batch)
    new, loss = training.alternating.step(learner, objective, context.rates)
    if part != "all":
      new = new._replace(
        params=keep(new.params, learner.params, part == "head")
      )
    if part == "head":
      new = new._replace(
        codebooks=learner.codebooks,
        centers_opt_state=learner.centers_opt_state,
      )
    return new, {"loss": loss}

  return step


def adapted(
  training: Training,
  model: Model,
  learner: Learner,
  data: ClientData,
  context: api.Context,
  *,
  steps: int,
  part: str = "all",
) -> Learner:
  """A learner after some steps on the client's samples, as in its next round.

  Args:
    training: how clients train.
    model: the network.
    learner: where it starts; returned as it is if there are no steps.
    data: the client's samples.
    context: has the client's rates and key.
    steps: how many.
    part: which part trains, one of PARTS.
  """
  if not steps:
    return learner
  step = step_of(training, model, context, part)
  learner, _ = local_steps.run(
    step, learner, data, context, training, steps=steps
  )
  return learner
