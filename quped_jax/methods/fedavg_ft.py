"""FedAvg with fine-tuning: the global model, adapted before it is used.

Training is FedAvg's, with all of its settings. Only the models on which a
client is evaluated differ: its personalized model is the global one after some
steps on its own training data, by a fresh optimizer. It is made anew for each
evaluation and then discarded; nothing of it is sent or kept. Down: the global
model w. Up: the difference after the local steps.

Quantized clients take alternating steps from w, with the levels that stay with
them; their quantized model is the adapted one at the levels that these steps
lead to.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; that of the server's
optimizer stays at the server.

The gradient evaluations of a round are those of training. Whoever uses the
adapted model takes `adapt_steps` steps more, once.

References:
  McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient
  Learning of Deep Networks from Decentralized Data, 2017.
  Oh, Kim, Yun, FedBABU: Toward Enhanced Representation for Federated Image
  Classification, 2022 (Section 5.2 fine-tunes the head, the body, or both).
"""

import dataclasses
from typing import ClassVar

from quped_jax import checks
from quped_jax.methods import api
from quped_jax.methods.blocks import adapt, averaging
from quped_jax.methods.blocks.training import Training
from quped_jax.methods.fedavg import FedavgOptions, make_fedavg
from quped_jax.quantization import alternating


@dataclasses.dataclass(frozen=True)
class FedavgFtOptions(FedavgOptions):
  """Settings of FedAvg with fine-tuning, in addition to those of FedAvg.

  Attributes:
    adapt_steps: steps of the adaptation, 0 for none; -1 for as many as the
      local steps of a round.
    part: what the adaptation trains: "all", the "head" (the last layer) or the
      "body" (the rest).
    adapt_learning_rate: its step size; 0 for the client's own in that round.
  """

  method: ClassVar[str] = "fedavg_ft"

  adapt_steps: int = -1
  part: str = "all"
  adapt_learning_rate: float = api.traced(0.0, off_at_zero=True)

  def __post_init__(self):
    super().__post_init__()
    checks.at_least("fedavg_ft.adapt_steps", self.adapt_steps, -1)
    checks.choice("fedavg_ft.part", self.part, adapt.PARTS)
    checks.not_negative(
      "fedavg_ft.adapt_learning_rate", self.adapt_learning_rate
    )


def make_fedavg_ft(
  models: api.Models,
  training: Training,
  options: FedavgFtOptions,
) -> api.FederatedMethod:
  """Makes FedAvg with fine-tuning.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.

  Raises:
    ValueError: a cohort with another architecture; once the parameters' shapes
      are known, also a model without the part that is to be adapted.
  """
  method, model = make_fedavg(models, training, options), models.shared
  quantized = training.max_levels is not None
  steps = training.steps if options.adapt_steps < 0 else options.adapt_steps

  def init_server(key, inputs):
    server = method.init_server(key, inputs)
    if options.part != "all":
      part = f"fedavg_ft.part={options.part!r}"
      adapt.check_head(part, model, server.model.params)
    return server

  def variants(server, client, data, context, cohort):
    if options.adapt_learning_rate:
      rates = context.rates._replace(learning_rate=options.adapt_learning_rate)
      context = context._replace(rates=rates)
    shared = averaging.copy_for(server.model, context.spec)
    learner = adapt.adapted(
      training,
      model,
      averaging.resume(training, shared, client),
      data,
      context,
      steps=steps,
      part=options.part,
    )
    result = {
      "personalized": (*alternating.current(learner), model),
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
