"""FedRep: a shared body, and each client's own head.

In each round a client first takes some of its local steps on its head alone, on
top of the body that it received, and then the rest on the body alone. The head
is the last layer; it stays with the client. Down: the body. Up: its difference
after the local steps. The server takes the mean.

Quantized clients train by the alternating steps, with levels of their own that
stay with them; the levels train with the body. A held-out client starts from
the server's initial head. No global model is evaluated, since the server's head
is never trained.

Optimizer states: that of the weights starts afresh each round, and again with
the steps on the body; that of the levels stays with the client.

References:
  Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for
  Personalized Federated Learning, 2021.
"""

import dataclasses

import jax
import jax.numpy as jnp

from quped_jax import checks, random_keys
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  adapt,
  averaging,
  divided,
  local_steps,
  partial,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import is_head


@dataclasses.dataclass(frozen=True)
class FedrepOptions:
  """Settings of FedRep.

  Attributes:
    head_steps: how many of the local steps train the head; must be fewer than
      all, since the rest train the body. 0 for half of them, of each client's
      own if they differ.
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  head_steps: int = 0
  weighting: str = "uniform"

  def __post_init__(self):
    checks.at_least("fedrep.head_steps", self.head_steps, 0)
    checks.choice("fedrep.weighting", self.weighting, api.WEIGHTINGS)


def _head_steps(training: Training, options: FedrepOptions) -> int:
  if options.head_steps and training.uneven:
    raise ValueError(
      f"fedrep.head_steps={options.head_steps}: must be 0, for half of each "
      "client's steps, with epochs_of='each', by which some may have fewer"
    )
  if training.steps == 1:
    raise ValueError(
      "steps=1: must be at least 2 with method='fedrep', which trains head and "
      "body in turn"
    )
  if options.head_steps and options.head_steps >= training.steps:
    raise ValueError(
      f"fedrep.head_steps={options.head_steps}: must be less than "
      f"{training.steps}, the local steps, of which the rest train the body"
    )
  return options.head_steps or training.steps // 2


def make_fedrep(
  models: api.Models,
  training: Training,
  options: FedrepOptions,
) -> api.FederatedMethod:
  """Makes FedRep.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture, or not enough local steps;
      once the parameters' shapes are known, also a model without a last layer
      or without a body.
  """

  def predicate_of(params):
    divided.check_head("method='fedrep'", models.shared, params)
    return is_head

  head_steps = _head_steps(training, options)

  def train(learner, data, context):
    steps, on_head = context.num_steps, head_steps
    if context.own_steps is not None:
      on_head = context.own_steps // 2
      steps = jnp.minimum(steps, on_head)
    sooner = context._replace(num_steps=steps)
    learner, first = local_steps.run(
      adapt.step_of(training, models.shared, context, "head"),
      learner,
      data,
      sooner,
      training,
      steps=head_steps,
    )
    model = api.GlobalModel(learner.params, learner.stats)
    stats = learner.quantized_stats
    learner = averaging.resume(training, model, averaging.keep(learner))
    learner = learner._replace(quantized_stats=stats)
    steps = context.num_steps
    later = context._replace(
      key=jax.random.fold_in(context.key, random_keys.FEDREP_BODY),
      num_steps=None if steps is None else steps - on_head,
    )
    learner, second = local_steps.run(
      adapt.step_of(training, models.shared, context, "body"),
      learner,
      data,
      later,
      training,
      steps=training.steps - head_steps,
    )
    taken = local_steps.taken(sooner, head_steps)
    rest = local_steps.taken(later, training.steps - head_steps)
    share = taken / (taken + rest)
    return learner, jax.tree.map(
      lambda a, b: share * a + (1 - share) * b, first, second
    )

  return partial.partial_method(
    "fedrep",
    models,
    training,
    predicate_of,
    weighting=options.weighting,
    train=train,
  )
