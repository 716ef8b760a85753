"""A federated method of your own: local training, averaged over the rounds.

python examples/own_method.py

Nothing travels. Each client trains by itself, and what is tested is the mean of
its models after all rounds so far, which is steadier than the last of them. The
library maps these functions of one client over all clients, at any precision.
"""

import dataclasses

import jax

import quped_jax as qj
from quped_jax.methods import api
from quped_jax.methods.blocks import local_steps

qj.use_compilation_cache()  # A further run need not compile.


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of the method.

  Attributes:
    keep: of the mean so far, in a round; the rest is the newest model's.
  """

  keep: float = 0.5


def make(models, training, options):
  """Makes the method, of pure functions of one client."""
  local = qj.methods.get_method("local")
  base = local.build(models, training, local.options(), federation=None)

  def init_client(*args):
    learner = base.init_client(*args)
    return {"learner": learner, "mean": learner.params}

  def client_update(download, client, data, context, cohort):
    del download  # Nothing is received.
    learner, metrics = local_steps.train(
      training,
      client["learner"],
      lambda batch: training.label_objective(models.clients[cohort], batch),
      data,
      context,
    )
    mean = jax.tree.map(
      lambda old, new: options.keep * old + (1 - options.keep) * new,
      client["mean"],
      learner.params,
    )
    client = {"learner": learner, "mean": mean}
    return api.ClientResult(client, (), 1.0, metrics)  # Nothing is sent.

  def variants(server, client, data, context, cohort):
    found = base.variants(server, client["learner"], data, context, cohort)
    _, stats, model = found["personalized"]
    return {**found, "mean": (client["mean"], stats, model)}

  def begin_finetune(client):
    learner = qj.freeze(client["learner"])
    return {"learner": learner, "mean": learner.params}

  return base.replace(
    init_client=init_client,
    begin_finetune=begin_finetune,
    client_update=client_update,
    variants=variants,
    primary_variant="mean",
  )


qj.register_method("steady", make, Options)
settings = qj.Settings(
  method="steady",
  method_options={"steady": {"keep": 0.7}},
  clients=6,
  bits=(32,),
  rounds=5,
)
result = qj.run(settings)
print(result.summary["accuracy"]["mean"])
