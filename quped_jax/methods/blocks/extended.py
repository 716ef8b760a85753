"""Building block of methods in which clients add something to a shared model.

All of the model is shared. What a client adds trains beside it, starts at zero
and never travels. It acts at the last layer, into which it is folded: a
client's own model is a network of the shared architecture.

Down: the model. Up: the difference after the local steps.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any

import jax

from quped_jax.methods import api
from quped_jax.methods.blocks import partial, requirements
from quped_jax.methods.blocks.training import Training
from quped_jax.models import Model
from quped_jax.models.base import HEAD

# Where a client's addition is among the parameters.
OWN = "client_own"

# `(last layer, addition) -> last layer`, each layer a kernel and a bias.
Fold = Callable[[Any, Any], Any]


def without(tree: Any, names: Container[str] = (OWN,)) -> dict[str, Any]:
  """Parameters or statistics without the entries of some names."""
  return {name: tree[name] for name in tree if name not in names}


def _is_own(path: str) -> bool:
  return path.split("/")[0] == OWN


def extended_method(
  name: str,
  models: api.Models,
  training: Training,
  own: Any,
  fold: Fold,
  *,
  weighting: str,
  train: partial.Train,
  statistics: Mapping[str, jax.Array] | None = None,
) -> api.FederatedMethod:
  """FedAvg of a model to which each client adds something of its own.

  Args:
    name: the method's name, for errors.
    models: the networks; every cohort must use the global architecture, whose
      head is dense (see `divided.check_linear`).
    training: how clients train.
    own: what a client adds at first, a tree of zeros.
    fold: folds it into the last layer.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
    train: a client's local steps. Its learner's parameters are the model's and,
      under OWN, the addition.
    statistics: further statistics by name, as they are at first. They are
      shared like those of batch norm, and `train` changes them.

  Raises:
    ValueError: a cohort with another architecture.
  """
  requirements.check_same_model(name, models)
  model, further = models.shared, dict(statistics or {})

  def folded(params):
    shared = without(params)
    return {**shared, HEAD: fold(shared[HEAD], params[OWN])}

  def init(key, inputs):
    params, stats = model.init(key, inputs)
    return {**params, OWN: own}, {**stats, **further}

  def apply(params, stats, inputs, train, *key):
    logits, new = model.apply(
      folded(params), without(stats, further), inputs, train, *key
    )
    return logits, {**new, **{x: stats[x] for x in further}}

  def is_quantized(path):
    return not _is_own(path) and model.is_quantized(path)

  whole = Model(model.name, init, apply, is_quantized, random=model.random)
  method = partial.partial_method(
    name,
    api.Models(whole, dict.fromkeys(models.clients, whole)),
    training,
    lambda params: _is_own,
    weighting=weighting,
    train=train,
  )

  def global_model(server, cohort):
    del cohort
    return without(server.params), without(server.stats, further), model

  def start(server, spec, cohort):
    del spec
    params, stats, _ = global_model(server, cohort)
    return api.GlobalModel(params, stats), model

  def variants(server, client, data, context, cohort):
    found = method.variants(server, client, data, context, cohort)
    plain = {
      variant: (folded(params), without(stats, further), model)
      for variant, (params, stats, _) in found.items()
    }
    return {**plain, "global": global_model(server, cohort)}

  return method.replace(
    variants=variants, global_model=global_model, start=start
  )
