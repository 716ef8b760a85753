r"""Per-FedAvg: an initial model that one gradient step personalizes.

FedAvg on the loss after a step of size alpha from w, that of
w' = w - alpha grad f(w; B1) on a batch B2. The gradient of a local step is

.. math::
  v &= \nabla f(w'; B_2) \quad \text{("first\_order")} \\
  v &- \tfrac{\alpha}{2 \delta} \big(
    \nabla f(w + \delta v; B_3) - \nabla f(w - \delta v; B_3) \big)
    \quad \text{("hessian\_free")}

where the second form replaces the product of the Hessian and v by a finite
difference. The size beta of the local steps is the clients' learning rate; each
step draws two or three batches. Down: the global model w. Up: the difference
after the local steps.

A client's personalized model is w after one step of size alpha on a batch of
its training data. Quantized clients take the meta-gradient at x and at Q(x),
with levels of their own that stay with them; their quantized model is the
personalized one at these levels. The paper's exact Hessian is left out.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client.

References:
  Fallah, Mokhtari, Ozdaglar, Personalized Federated Learning with Theoretical
  Guarantees: A Model-Agnostic Meta-Learning Approach, 2020.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from quped_jax import checks, random_keys
from quped_jax.data.federation import Batch
from quped_jax.methods import api
from quped_jax.methods.blocks import averaging, trees
from quped_jax.methods.blocks.training import Training
from quped_jax.models import pass_keys
from quped_jax.quantization.alternating import Objective

VARIANTS = ("first_order", "hessian_free")


@dataclasses.dataclass(frozen=True)
class PerFedavgOptions:
  """Settings of Per-FedAvg.

  Attributes:
    variant: form of the meta-gradient: "first_order" or "hessian_free".
    alpha: step size of the adaptation, at least 0.
    delta: step of the finite difference in "hessian_free".
    weighting: weights of the clients in the mean: "uniform" or by "samples".
  """

  variant: str = "first_order"
  alpha: float = api.traced(0.01)
  delta: float = api.traced(1e-3)
  weighting: str = "uniform"

  def __post_init__(self):
    checks.choice("per_fedavg.variant", self.variant, VARIANTS)
    checks.not_negative("per_fedavg.alpha", self.alpha)
    checks.positive("per_fedavg.delta", self.delta)
    checks.choice("per_fedavg.weighting", self.weighting, api.WEIGHTINGS)


def _move(params: Any, direction: Any, size: float) -> Any:
  return jax.tree.map(lambda p, d: p + size * d, params, direction)


def adapt(
  objective: Objective, params: Any, stats: Any, alpha: float
) -> tuple[Any, Any]:
  """The model after one step of size alpha: (params, stats)."""
  grads, stats = jax.grad(objective, has_aux=True)(params, stats)
  return _move(params, grads, -alpha), stats


def meta_objective(
  objectives: list[Objective], alpha: float, delta: float
) -> Objective:
  """The loss after one step of size alpha, whose gradient is the meta-gradient.

  Args:
    objectives: those of the batches B1 and B2 for "first_order", or of B1, B2
      and B3 for "hessian_free".
    alpha: size of the step.
    delta: step of the finite difference.
  """
  inner, outer, *curvature = objectives

  def gradient(objective, params, stats):
    return jax.grad(objective, has_aux=True)(params, stats)[0]

  def meta(params, stats):
    # The gradient is computed here; nothing is differentiated through this.
    here = jax.lax.stop_gradient(params)
    adapted, new_stats = adapt(inner, here, stats, alpha)
    (loss, new_stats), meta_gradient = jax.value_and_grad(outer, has_aux=True)(
      adapted, new_stats
    )
    for objective in curvature:
      ahead = _move(here, meta_gradient, delta)
      behind = _move(here, meta_gradient, -delta)
      change = trees.difference(
        gradient(objective, ahead, stats), gradient(objective, behind, stats)
      )
      meta_gradient = _move(meta_gradient, change, -alpha / (2 * delta))
    # Zero, with the meta-gradient as gradient.
    terms = jax.tree.map(
      lambda g, p, p0: jnp.sum(g * (p - p0)), meta_gradient, params, here
    )
    return loss + sum(jax.tree.leaves(terms)), new_stats

  return meta


def make_per_fedavg(
  models: api.Models,
  training: Training,
  options: PerFedavgOptions,
) -> api.FederatedMethod:
  """Makes Per-FedAvg.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture.
  """
  model = models.shared
  hessian_free = options.variant == "hessian_free"
  batches = 3 if hessian_free else 2
  quantized = training.max_levels is not None

  def local_loss(download, batch, context):
    del download, context
    keys = pass_keys(model, batch.key, batches)
    inputs, labels = (jnp.split(x, batches) for x in batch[:2])

    def part(i):
      key = None if keys is None else keys[i]
      return Batch(inputs[i], labels[i], key)

    objectives = [
      training.label_objective(model, part(i)) for i in range(batches)
    ]
    return meta_objective(objectives, options.alpha, options.delta)

  method = averaging.averaging_method(
    "per_fedavg",
    models,
    training,
    weighting=options.weighting,
    local_loss=local_loss,
    batches=batches,
  )

  def variants(server, client, data, context, cohort):
    shared = method.broadcast(server, context, cohort)
    key = jax.random.fold_in(context.key, random_keys.PER_FEDAVG_ADAPTATION)
    (positions,) = data.draw(key, 1, training.batch_size)
    batch = data.batch(positions)._replace(key=key)
    objective = training.label_objective(model, batch)
    params, stats = adapt(objective, shared.params, shared.stats, options.alpha)
    result = {
      "personalized": (params, stats, model),
      "global": (shared.params, shared.stats, model),
    }
    if quantized:
      adapted = shared._replace(params=params, stats=stats)
      learner = averaging.resume(training, adapted, client)
      result["quantized"] = training.quantized_variant(
        model, learner, data, context
      )
    return result

  # At w and at w', and for "hessian_free" on both sides of w.
  evaluations = 4 if hessian_free else 2
  return method.replace(
    variants=variants,
    primary_variant="quantized" if quantized else "personalized",
    gradients=training.steps * training.gradients_per_step * evaluations,
  )
