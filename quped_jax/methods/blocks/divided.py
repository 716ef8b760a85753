"""Building block of methods that split a model at its last layer."""

from collections.abc import Mapping
from typing import Any

import jax

from quped_jax.models import Model, is_head


def check_divided(
  method: str, model: Model, federation: Any
) -> tuple[int, int]:
  """Checks that a model consists of features and a head that classifies them.

  Args:
    method: name of the method that splits it, for errors.
    model: the network.
    federation: has the samples that are its inputs.

  Returns:
    The number of features and the number of classes.

  Raises:
    ValueError: the model is not split, its features are not `[batch, width]`,
      or its logits are not `[batch, classes]` with at least two classes.
  """

  def error(what):
    return ValueError(
      f"model={model.name!r}: must {what} with method={method!r}, which "
      "divides the model before its last layer"
    )

  if model.features is None or model.head is None:
    raise error("have `features` and a `head`")
  divide, head = model.features, model.head

  def shapes():
    inputs = federation.example()
    params, stats = model.init(jax.random.key(0), inputs)
    features, _ = divide(params, stats, inputs, False)
    return features, head(params, features)

  features, logits = jax.eval_shape(shapes)
  if features.ndim != 2:
    raise error(f"have features [batch, width], not {features.shape},")
  if logits.ndim != 2 or logits.shape[1] < 2:
    raise error(
      f"give logits [batch, classes] of two classes or more, not "
      f"{logits.shape},"
    )
  return features.shape[1], logits.shape[1]


def head_params(params: Any) -> dict[str, Any]:
  """The parameters of the last layer only, as `Model.head` takes them."""
  return {name: params[name] for name in params if is_head(name)}


def check_alike(
  method: str, models: Mapping[str, Model], federation: Any
) -> tuple[int, int]:
  """Checks that the models of all cohorts have equally many features.

  Args:
    method: name of the method that splits them, for errors.
    models: the networks by cohort name.
    federation: has the samples that are their inputs.

  Returns:
    The number of features and the number of classes.

  Raises:
    ValueError: a model is not split, or its number of features differs.
  """
  sizes = {c: check_divided(method, m, federation) for c, m in models.items()}
  (first, size), *others = sizes.items()
  for cohort, other in others:
    if other != size:
      raise ValueError(
        f"model={models[cohort].name!r} (cohort {cohort!r}): must have "
        f"{size[0]} features, as {first!r} has, with method={method!r}; got "
        f"{other[0]}"
      )
  return size


def stack(model: Model, network: Model) -> Model:
  """A model's features, followed by another network in place of its head.

  Args:
    model: a split model; all of its parameters are kept.
    network: maps features to logits; it has no statistics.

  Returns:
    A model with the parameters {"client": the model's, "server": the
    network's} and the model's statistics.
  """
  divide: Any = model.features
  own = "client/"

  def init(key, inputs):
    params, stats = model.init(key, inputs)
    features, _ = divide(params, stats, inputs, False)
    return {"client": params, "server": network.init(key, features)[0]}, stats

  def apply(params, stats, inputs, train, *key):
    features, stats = divide(params["client"], stats, inputs, train, *key)
    return network.apply(params["server"], {}, features, train)[0], stats

  def is_quantized(path):
    return path.startswith(own) and model.is_quantized(path[len(own) :])

  name = f"{model.name}+{network.name}"
  return Model(name, init, apply, is_quantized, random=model.random)
