"""Steps on a client's own samples that train a model or one part of it.

The parts are the head, which is the last layer, and the body, which is the
rest. `with_adaptation` makes of a method whose clients share a model one whose
clients adapt that model to themselves before they use it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from quped_jax import checks
from quped_jax.data.federation import Batch, ClientData
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, divided, local_steps, partial
from quped_jax.methods.blocks.personal import model_of
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model, is_head
from quped_jax.quantization import alternating
from quped_jax.quantization.alternating import Learner
from quped_jax.quantization.codebook import is_traced

PARTS = ("all", "head", "body")


@dataclasses.dataclass(frozen=True)
class AdaptationOptions:
  """Settings of methods whose clients adapt the shared model.

  Attributes:
    method: the method's name, for errors.
    adapt_steps: steps of the adaptation, 0 for none; -1 for as many as the
      local steps of a round.
    part: what the adaptation trains: "all", the "head" (the last layer) or the
      "body" (the rest).
    adapt_learning_rate: its step size; 0 for the client's own in that round.
  """

  method: ClassVar[str]

  adapt_steps: int = -1
  part: str = "all"
  adapt_learning_rate: float = api.traced(0.0, off_at_zero=True)

  def __post_init__(self):
    checks.at_least(f"{self.method}.adapt_steps", self.adapt_steps, -1)
    checks.choice(f"{self.method}.part", self.part, PARTS)
    checks.not_negative(
      f"{self.method}.adapt_learning_rate", self.adapt_learning_rate
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


def with_adaptation(
  method: api.FederatedMethod,
  model: Model,
  training: Training,
  options: AdaptationOptions,
) -> api.FederatedMethod:
  """A method whose clients adapt the shared model before they use it.

  Training stays as it is. Only the models on which a client is evaluated
  differ: its personalized model is the shared one after some steps on the
  labels of its own training samples, by a fresh optimizer. It is made anew for
  each evaluation and then discarded; nothing of it is sent or kept.

  Quantized clients take alternating steps from the shared model, with the
  levels that stay with them; their quantized model is the adapted one at the
  levels that these steps lead to.

  Args:
    method: clients share a model; the client's state is its `Levels`, or a
      NamedTuple with a field `levels`.
    model: the shared network.
    training: how clients train.
    options: the settings of the adaptation.

  Raises:
    ValueError: once the parameters' shapes are known, a model without the part
      that is to be adapted.
  """
  quantized = training.max_levels is not None
  steps = training.steps if options.adapt_steps < 0 else options.adapt_steps
  own_rate = options.adapt_learning_rate

  def init_server(key, inputs):
    server = method.init_server(key, inputs)
    if options.part != "all":
      part = f"{options.method}.part={options.part!r}"
      divided.check_head(part, model, model_of(server).params)
    return server

  def variants(server, client, data, context, cohort):
    del cohort
    if options.adapt_steps < 0:
      context = context._replace(num_steps=context.own_steps)
    if is_traced(own_rate) or own_rate:
      rates = context.rates._replace(learning_rate=own_rate)
      context = context._replace(rates=rates)
    shared = averaging.copy_for(model_of(server), context.spec)
    learner = adapted(
      training,
      model,
      averaging.resume(training, shared, client),
      data,
      context,
      steps=steps,
      part=options.part,
    )
    trained = training.alternating.current(learner, context.rates)
    result = {
      "personalized": (*trained, model),
      "global": (shared.params, shared.stats, model),
    }
    if quantized and steps:
      result["quantized"] = training.quantized_variant(
        model, learner, data, context
      )
    elif quantized:
      # The shared model itself, with the server's statistics.
      result["quantized"] = (*alternating.deployed(learner), model)
    return result

  return method.replace(
    init_server=init_server,
    variants=variants,
    primary_variant="quantized" if quantized else "personalized",
  )
