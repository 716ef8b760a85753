"""Optimizers of weights and levels by name; `update` takes the step size."""

import optax

from quped_jax import checks
from quped_jax.quantization import step_sizes

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


def base_optimizer(
  name: str, *, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformationExtraArgs:
  """Makes a base optimizer by name; its `update` takes the step size.

  Args:
    name: "sgd", "momentum", "adam" or "adamw".
    momentum: heavy-ball decay, for "momentum".
    weight_decay: decoupled for "adamw", added to the gradient for the others.

  Returns:
    A gradient transformation; `update` takes `learning_rate`.

  Raises:
    ValueError: unknown name.
  """
  kinds = {
    "sgd": optax.identity,
    "momentum": lambda: optax.trace(momentum),
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
  }
  checks.choice("optimizer", name, OPTIMIZERS)
  parts = [kinds[name]()]
  if weight_decay:
    decay = optax.add_decayed_weights(weight_decay)
    parts.insert(1 if name == "adamw" else 0, decay)
  return optax.chain(*parts, step_sizes.scale_by_step_size())
