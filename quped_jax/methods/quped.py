"""QuPeD: quantized personalization via distillation.

Every client trains its own quantized model (x_i, c_i), with its own precision
and architecture, and its copy w_i of the global model; the two teach each other
by distillation on the client's data. Down: the global model w. Up: w_i, as a
difference. The server takes the mean.

Network passes of a local step, in forward-equivalents (a backward pass is two):

    a. weights     w_i forward, once, for its logits             1
                   x and Q(x), forward and backward              6
    b. levels      Q(x) at the new x, forward and backward       3
    c. w_i         new x and new Q(x), forward                   2
                   back through w_i's one forward pass           2

14 in all. With full precision, when no client of the federation is quantized,
7: 1 for w_i, 3 for x, 1 for the new x, 2 back through w_i. Plain SGD takes 3.

Optimizer states: those of the client's own weights and levels stay with it;
that of its copy of the global model starts afresh each round.

References:
  Ozkara, Singh, Data, Diggavi, QuPeD: Quantized Personalization via
  Distillation with Applications to Federated Learning, 2021 (Algorithm 2).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  distill,
  personal,
)
from quped_jax.methods.blocks.training import Training
from quped_jax.models import training_pass
from quped_jax.quantization import views as views_lib
from quped_jax.quantization.codebook import is_traced

GLOBAL_LOSSES = ("distill", "distill+labels")


@dataclasses.dataclass(frozen=True)
class QupedOptions:
  """Settings of QuPeD.

  Attributes:
    lambda_p: weight of distillation, in [0, 1]; for the personalized model the
      loss on labels has weight 1 - lambda_p.
    temperature: T, by which logits are divided.
    temperature_on: whose logits are divided: "both", or only the "teacher"'s
      (as in the released code).
    global_loss: loss of w_i: "distill" (the paper), or "distill+labels", which
      adds the loss on labels with weight 1.
    weighting: weights of the clients in the mean: "uniform" or by "samples".
    blend: how far a client's own weights move towards the received global
      model before each round: 0 (the paper) not at all, 1 all the way. Levels
      stay, and so do clients whose network is not the global model's.
  """

  lambda_p: float = api.traced(0.5)
  temperature: float = api.traced(3.0)
  temperature_on: str = "both"
  global_loss: str = "distill"
  weighting: str = "uniform"
  blend: float = api.traced(0.0, off_at_zero=True, later=True)

  def __post_init__(self):
    checks.unit_interval("quped.lambda_p", self.lambda_p)
    checks.positive("quped.temperature", self.temperature)
    checks.choice(
      "quped.temperature_on", self.temperature_on, distill.TEMPERATURE_ON
    )
    checks.choice("quped.global_loss", self.global_loss, GLOBAL_LOSSES)
    checks.choice("quped.weighting", self.weighting, api.WEIGHTINGS)
    checks.unit_interval("quped.blend", self.blend)


def make_quped(
  models: api.Models,
  training: Training,
  options: QupedOptions,
) -> api.FederatedMethod:
  """Makes QuPeD.

  Args:
    models: the networks of the global model and of each cohort.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: `blend` where no client has the global model's network.
  """
  share = options.lambda_p
  blends = is_traced(options.blend) or options.blend
  if blends and models.shared not in models.clients.values():
    raise ValueError(
      "quped.blend: must be 0 where no client has the network of the global "
      f"model, {models.shared.name!r}"
    )
  from_labels = options.global_loss == "distill+labels"
  divergence = functools.partial(
    training.divergence,
    temperature=options.temperature,
    temperature_on=options.temperature_on,
  )

  def client_update(download, client, data, context, cohort):
    model = models.clients[cohort]
    if blends and model is models.shared:
      client = personal.toward(client, download, options.blend)

    def step(carry, batch):
      learner, shared, opt_state = carry

      # One forward pass of w_i serves as teacher here and as student in c.
      def forward(params):
        return training_pass(models.shared, params, shared.stats, batch)

      teacher, pull_back, stats = jax.vjp(forward, shared.params, has_aux=True)

      def objective(params, stats):
        logits, stats = training_pass(model, params, stats, batch)
        labels = training.loss(logits, batch.labels)
        distilled = divergence(jax.lax.stop_gradient(teacher), logits)
        return (1 - share) * labels + share * distilled, stats

      # a, b: weights and levels, by distillation from w_i.
      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )

      # c: w_i, by distillation from the new personalized models.
      views = training.alternating.views(learner, context.rates)

      def logits_of(view):
        return training_pass(model, view.params, view.stats, batch)[0]

      taught = [
        views_lib.where_used(view.runs, functools.partial(logits_of, view))
        for view in views
      ]

      def global_loss(logits):
        total = jnp.zeros(())
        for view, target in zip(views, taught, strict=True):
          distilled = share * divergence(logits, target)
          total = views_lib.add_loss(view, total, distilled)
        if from_labels:
          total += training.loss(logits, batch.labels)
        return total

      (grads,) = pull_back(jax.grad(global_loss)(teacher))
      updates, opt_state = training.shared_optimizer.update(
        grads,
        opt_state,
        shared.params,
        learning_rate=context.shared_learning_rate,
      )
      params = optax.apply_updates(shared.params, updates)
      return (learner, api.GlobalModel(params, stats), opt_state), {
        "loss": loss
      }

    return personal.train_beside_copy(
      step, download, client, data, context, training, options.weighting
    )

  return personal.personal_method(
    models,
    training,
    client_update,
    # Those of the views (for weights), of the levels, and of w_i.
    gradients=training.steps * (training.gradients_per_step + 1),
  )
