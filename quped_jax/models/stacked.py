"""A network's features, followed by another network."""

from typing import Any

from quped_jax.models.base import Model, NamedNetwork, Stacked
from quped_jax.models.registry import create_model


def create_named(network: NamedNetwork) -> Model:
  """The network that a name and options stand for.

  Raises:
    ValueError: see `create_model`.
  """
  return create_model(
    network.name, network.num_classes, **dict(network.options)
  )


def stack(front: Model, back: NamedNetwork) -> Model:
  """A model's features, followed by another network in place of its head.

  Args:
    front: a model that is divided into features and a head; all of its
      parameters are kept.
    back: maps features to logits; it has no statistics.

  Returns:
    A model with the parameters {"client": those of the front, "server": those
    of the back} and the statistics of the front.

  Raises:
    ValueError: a front without features, or no such back.
  """
  if front.features is None:
    raise ValueError(
      f"model={front.name!r}: must have `features`, for a network that follows"
    )
  divide: Any = front.features
  network = create_named(back)
  own = "client/"

  def init(key, inputs):
    params, stats = front.init(key, inputs)
    features, _ = divide(params, stats, inputs, False)
    return {"client": params, "server": network.init(key, features)[0]}, stats

  def apply(params, stats, inputs, train, *key):
    features, stats = divide(params["client"], stats, inputs, train, *key)
    return network.apply(params["server"], {}, features, train)[0], stats

  def is_quantized(path):
    return path.startswith(own) and front.is_quantized(path[len(own) :])

  return Model(
    f"{front.name}+{network.name}",
    init,
    apply,
    is_quantized,
    activations=tuple(dict.fromkeys(front.activations + network.activations)),
    random=front.random,
    stacked=Stacked(front, back),
  )
