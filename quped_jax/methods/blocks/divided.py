"""Building block of methods that divide a model at its last layer."""

from collections.abc import Mapping
from typing import Any

import jax

from quped_jax.models import Model, is_head


def check_divided(
  method: str, model: Model, federation: Any
) -> tuple[int, int]:
  """Checks that a model is features and a head that classifies them.

  Args:
    method: that divides it.
    model: the network.
    federation: whose samples it takes.

  Returns:
    The number of features, and that of classes.

  Raises:
    ValueError: it is not divided, its features are not `[batch, width]`, or
      its logits not `[batch, classes]` of at least two classes.
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
  """The parameters of the last layer alone, which `Model.head` takes."""
  return {name: params[name] for name in params if is_head(name)}


def check_alike(
  method: str, models: Mapping[str, Model], federation: Any
) -> tuple[int, int]:
  """Checks that the models of all cohorts have as many features.

  Args:
    method: that divides them.
    models: by name of the cohort.
    federation: whose samples they take.

  Returns:
    The number of features, and that of classes.

  Raises:
    ValueError: a model that is not divided, or one of another number.
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
  """A model's features, and then another network in place of its head.

  Args:
    model: a divided one, which keeps all of its parameters.
    network: from features to logits, without statistics.

  Returns:
    A model over the parameters {"client": of the model, "server": of the
    network}, and the statistics of the model.
  """
  divide: Any = model.features
  own = "client/"

  def init(key, inputs):
    params, stats = model.init(key, inputs)
    features, _ = divide(params, stats, inputs, False)
    return {"client": params, "server": network.init(key, features)[0]}, stats

  def apply(params, stats, inputs, train):
    features, stats = divide(params["client"], stats, inputs, train)
    return network.apply(params["server"], {}, features, train)[0], stats

  def is_quantized(path):
    return path.startswith(own) and model.is_quantized(path[len(own) :])

  return Model(f"{model.name}+{network.name}", init, apply, is_quantized)
